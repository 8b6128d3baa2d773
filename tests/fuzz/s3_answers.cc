// Any bytes as what a server, a source of credentials or ~/.aws says: the first byte chooses which.
// Values or Errors come out, and what they promise holds.
#include "s3/credentials.h"
#include "s3/ini.h"
#include "s3/verdict.h"

namespace zerofs::s3 {
namespace {

struct OneFile final : Environment {
  std::string text;
  std::optional<std::string> variable(const char*) const override { return std::nullopt; }
  std::optional<std::string> file(const std::string&) const override { return text; }
};

void judge_all(Bytes body) {
  for (const u32 status : {200U, 206U, 301U, 400U, 403U, 404U, 409U, 412U, 416U, 500U, 503U}) {
    for (const Method method : {Method::get, Method::put, Method::post}) {
      Response response;
      response.status = status;
      response.body = Buffer::copy_of(body);
      const Verdict verdict = judge({.method = method, .key = "k"}, response);
      INVARIANT(verdict.next != Next::done || verdict.why.empty());
      INVARIANT(verdict.next != Next::move || !verdict.region.empty());
    }
  }
}

void header_values(std::string_view text) {
  const std::optional<ContentRange> range = parse_content_range(text);
  if (range && range->satisfied)
    INVARIANT(range->first <= range->last && range->last < range->total);
  static_cast<void>(parse_http_date(text));
  static_cast<void>(parse_iso_time(text));
}

void listing(Bytes bytes) {
  const Result<ListPage> page = parse_list(bytes);
  if (!page) INVARIANT(page.error().text()[0] != 0);
  static_cast<void>(parse_delete_result(bytes).has_value());
  static_cast<void>(parse_upload_id(bytes).has_value());
}

void configuration(std::string_view text) {
  OneFile environment;
  environment.text = text;
  static_cast<void>(config_from("s3://bucket", {}, environment).has_value());
  const Result<Config> config = config_from(text, {}, OneFile());
  if (config) INVARIANT(!config->bucket.empty() && config->prefix.size() <= 800);
  static_cast<void>(parse_url(text).has_value());
  const std::string round = unescape(escape(text, Slash::escape), Plus::is_space);
  INVARIANT(round == text);
}

}  // namespace
}  // namespace zerofs::s3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs::s3;
  if (size == 0) return 0;
  const zerofs::Bytes bytes(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  const std::string_view text = zerofs::text_of(bytes);
  switch (data[0]) {
    case 'L':
    case 'D': listing(bytes); break;
    case 'E': judge_all(bytes); break;
    case 'J':
      static_cast<void>(parse_credentials_json(text).has_value());
      static_cast<void>(parse_assume_role(bytes).has_value());
      break;
    case 'I': static_cast<void>(parse_ini(text)); break;
    case 'H': header_values(text); break;
    default: configuration(text); break;
  }
  return 0;
}
