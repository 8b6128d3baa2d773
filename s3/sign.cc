#include "s3/sign.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "s3/uri.h"

namespace zerofs::s3 {

std::string canonical_query(const std::vector<Parameter>& parameters) {
  std::vector<std::pair<std::string, std::string>> escaped;
  escaped.reserve(parameters.size());
  for (const Parameter& p : parameters) {
    escaped.emplace_back(escape(p.name, Slash::escape), escape(p.value, Slash::escape));
  }
  std::ranges::sort(escaped);
  std::string out;
  for (const auto& [name, value] : escaped) {
    if (!out.empty()) out += '&';
    out += name;
    out += '=';
    out += value;
  }
  return out;
}

std::string amz_date(WallTime now) {
  const std::time_t seconds =
      std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
  return fmt::format("{:%Y%m%dT%H%M%SZ}", fmt::gmtime(seconds));
}

const Sha256& Signer::key(const Credentials& credentials, std::string_view day,
                          std::string_view region, std::string_view service) {
  std::string wanted = fmt::format("{}/{}/{}", day, region, service);
  if (wanted != key_for_ || credentials.secret_key.value != key_secret_) {
    key_for_ = std::move(wanted);
    key_secret_ = credentials.secret_key.value;
    const Sha256 of_day = hmac_sha256(bytes_of("AWS4" + key_secret_), bytes_of(day));
    const Sha256 of_region = hmac_sha256(of_day, bytes_of(region));
    const Sha256 of_service = hmac_sha256(of_region, bytes_of(service));
    key_ = hmac_sha256(of_service, bytes_of("aws4_request"));
  }
  return key_;
}

std::string Signer::authorization(const ToSign& request, std::vector<Header> headers,
                                  const Credentials& credentials, std::string_view region,
                                  WallTime now) {
  std::ranges::sort(headers, {}, &Header::name);
  std::string names;
  std::string canonical = fmt::format("{}\n{}\n{}\n", request.method, request.path, request.query);
  for (const Header& header : headers) {
    if (!names.empty()) names += ';';
    names += header.name;
    canonical += header.name;
    canonical += ':';
    canonical += header.value;
    canonical += '\n';
  }
  canonical += '\n';
  canonical += names;
  canonical += '\n';
  canonical += request.payload_hash;

  const std::string time = amz_date(now);
  const std::string_view day = std::string_view(time).substr(0, 8);
  const std::string scope = fmt::format("{}/{}/{}/aws4_request", day, region, request.service);
  const std::string to_sign =
      fmt::format("AWS4-HMAC-SHA256\n{}\n{}\n{}", time, scope, hex(sha256(bytes_of(canonical))));
  const Sha256 signature =
      hmac_sha256(key(credentials, day, region, request.service), bytes_of(to_sign));
  return fmt::format("AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={},Signature={}",
                     credentials.access_key, scope, names, hex(signature));
}

}  // namespace zerofs::s3
