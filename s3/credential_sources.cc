// The sources of credentials, asked one after the other.
//
// Documentation: AWS SDKs and Tools Reference Guide, "Standardized credential providers"; EC2 user
// guide, "Instance metadata" (version 2: a token first); STS API, AssumeRoleWithWebIdentity.
#include <curl/curl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <pugixml.hpp>

#include "s3/credentials.h"
#include "s3/ini.h"
#include "s3/xml.h"

namespace zerofs::s3 {

namespace {

constexpr std::size_t kAnswerBytesMax = 256 * kKiB;

struct Call {
  std::string url;
  const char* method = "GET";
  std::vector<std::string> headers;
  std::string form;  // of a POST
  std::string ca_file;
  long timeout_ms = 5000;
  bool local = false;  // never through a proxy
};
struct Reply {
  long status = 0;
  std::string body;
};

std::size_t append_body(char* data, std::size_t size, std::size_t count, void* out) {
  std::string& body = *static_cast<std::string*>(out);
  if (body.size() + size * count > kAnswerBytesMax) return 0;
  body.append(data, size * count);
  return size * count;
}

// Blocks. Errors: retry.
Result<Reply> call(const Call& request) {
  CURL* easy = curl_easy_init();
  INVARIANT(easy != nullptr);
  Reply reply;
  curl_slist* headers = nullptr;
  for (const std::string& header : request.headers) {
    headers = curl_slist_append(headers, header.c_str());
  }
  curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, request.timeout_ms);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 1000L);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &append_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &reply.body);
  if (!request.form.empty()) curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.form.c_str());
  curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  if (request.local) curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
  if (!request.ca_file.empty()) {
    curl_easy_setopt(easy, CURLOPT_CAINFO, request.ca_file.c_str());
  }
  const CURLcode code = curl_easy_perform(easy);
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &reply.status);
  curl_slist_free_all(headers);
  curl_easy_cleanup(easy);
  if (code != CURLE_OK) return fail(Code::retry, curl_easy_strerror(code), code);
  return reply;
}

// 2xx, or an Error with the status.
Result<std::string> call_for_body(const Call& request, const char* who) {
  TRY(Reply reply, call(request));
  if (reply.status >= 200 && reply.status < 300) return std::move(reply.body);
  const std::optional<ErrorBody> error = parse_error(bytes_of(reply.body));
  spdlog::warn("S3: {} answered {}{}{}", who, reply.status, error ? ": " : "",
               error ? error->message : "");
  const bool passing = reply.status >= 500 || reply.status == 429;
  return fail(passing ? Code::retry : Code::denied, who, static_cast<u64>(reply.status));
}

std::string text_member(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

Result<std::string> read_token(const std::string& path, const char* who) {
  std::optional<std::string> token = SystemEnvironment().file(path);
  if (!token) return fail(Code::retry, who);
  while (token->ends_with('\n') || token->ends_with('\r') || token->ends_with(' ')) {
    token->pop_back();
  }
  if (token->empty() || token->find_first_of("\r\n") != std::string::npos) {
    return fail(Code::denied, who);
  }
  return std::move(*token);
}

struct WebIdentity {
  std::string token_file;
  std::string role_arn;
  std::string session_name;
};

Result<Credentials> from_web_identity(const WebIdentity& identity, const std::string& endpoint,
                                      const std::string& region, const std::string& ca_file) {
  TRY(const std::string token,
      read_token(identity.token_file, "the web identity token file is missing or empty"));
  Call request{
      .url = endpoint.empty() ? fmt::format("https://sts.{}.amazonaws.com/", region) : endpoint,
      .method = "POST",
      .headers = {"Content-Type: application/x-www-form-urlencoded"},
      .ca_file = ca_file};
  request.form = fmt::format(
      "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={}&RoleSessionName={}"
      "&WebIdentityToken={}",
      escape(identity.role_arn, Slash::escape), escape(identity.session_name, Slash::escape),
      escape(token, Slash::escape));
  TRY(const std::string body, call_for_body(request, "AssumeRoleWithWebIdentity"));
  return parse_assume_role(bytes_of(body));
}

Result<Credentials> from_container(const CredentialOptions& options, const std::string& ca_file) {
  Call request{.url = options.container_uri,
               .ca_file = ca_file,
               .local = options.container_uri.starts_with("http://")};
  std::string token = options.container_token.value;
  if (!options.container_token_file.empty()) {
    TRY(token,
        read_token(options.container_token_file, "the container's token file is missing or empty"));
  }
  if (!token.empty()) request.headers.push_back("Authorization: " + token);
  TRY(const std::string body, call_for_body(request, "the container's credentials endpoint"));
  return parse_credentials_json(body);
}

Result<Credentials> from_metadata(const CredentialOptions& options) {
  constexpr const char* kWho = "the instance metadata service";
  const std::string& base = options.metadata_endpoint;
  TRY(const std::string token,
      call_for_body({.url = base + "/latest/api/token",
                     .method = "PUT",
                     .headers = {"X-aws-ec2-metadata-token-ttl-seconds: 21600"},
                     .timeout_ms = 2000,
                     .local = true},
                    kWho));
  const std::string header = "X-aws-ec2-metadata-token: " + token;
  const std::string roles = base + "/latest/meta-data/iam/security-credentials/";
  TRY(std::string role,
      call_for_body({.url = roles, .headers = {header}, .timeout_ms = 2000, .local = true}, kWho));
  role = role.substr(0, role.find_first_of("\r\n"));
  if (role.empty()) return fail(Code::denied, "this instance has no role");
  TRY(const std::string body, call_for_body({.url = roles + escape(role, Slash::escape),
                                             .headers = {header},
                                             .timeout_ms = 2000,
                                             .local = true},
                                            kWho));
  return parse_credentials_json(body);
}

std::string value_of(const IniSection* section, const char* key) {
  if (section == nullptr) return "";
  const auto found = section->find(key);
  return found == section->end() ? "" : found->second;
}

// Nothing when the files have no such profile, or nothing that we can use in it.
std::optional<Result<Credentials>> from_profile(const CredentialOptions& options,
                                                const std::string& region,
                                                const std::string& ca_file) {
  const SystemEnvironment files;
  const Ini secrets = parse_ini(files.file(options.credentials_file).value_or(""));
  const Ini settings = parse_ini(files.file(options.config_file).value_or(""));
  for (const Ini* ini : {&secrets, &settings}) {
    const IniSection* section = profile_section(*ini, options.profile);
    const std::string access_key = value_of(section, "aws_access_key_id");
    if (!access_key.empty()) {
      return Credentials{.access_key = access_key,
                         .secret_key = {value_of(section, "aws_secret_access_key")},
                         .session_token = {value_of(section, "aws_session_token")}};
    }
    const WebIdentity identity{.token_file = value_of(section, "web_identity_token_file"),
                               .role_arn = value_of(section, "role_arn"),
                               .session_name = options.role_session_name};
    if (!identity.token_file.empty()) {
      return from_web_identity(identity, options.sts_endpoint, region, ca_file);
    }
    if (!identity.role_arn.empty() || !value_of(section, "credential_process").empty() ||
        !value_of(section, "sso_session").empty()) {
      return fail(Code::denied,
                  "the profile needs role_arn with source_profile, credential_process or SSO, "
                  "which are not supported: give keys, a web identity or an instance role");
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<WallTime> parse_iso_time(std::string_view text) {
  // 2026-01-02T03:04:05[.frac]Z
  if (text.size() < 20 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' ||
      text[16] != ':' || text.back() != 'Z') {
    return std::nullopt;
  }
  bool good = true;
  const auto number = [&](std::size_t at, std::size_t count) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + at + count, value);
    good = good && error == std::errc() && end == text.data() + at + count && value >= 0;
    return value;
  };
  using namespace std::chrono;
  const year_month_day date(year(number(0, 4)), month(static_cast<unsigned>(number(5, 2))),
                            day(static_cast<unsigned>(number(8, 2))));
  const seconds time = hours(number(11, 2)) + minutes(number(14, 2)) + seconds(number(17, 2));
  if (!good || !date.ok() || time > hours(24)) return std::nullopt;
  return WallTime(sys_days(date).time_since_epoch() + time);
}

Result<Credentials> parse_credentials_json(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return fail(Code::retry, "credentials are not a JSON object");
  Credentials out{.access_key = text_member(json, "AccessKeyId"),
                  .secret_key = {text_member(json, "SecretAccessKey")},
                  .session_token = {text_member(json, "Token")},
                  .expires = parse_iso_time(text_member(json, "Expiration"))};
  if (out.access_key.empty() || out.secret_key.empty()) {
    return fail(Code::denied, "an endpoint for credentials gave none");
  }
  return out;
}

Result<Credentials> parse_assume_role(Bytes xml) {
  pugi::xml_document document;
  const bool loaded = static_cast<bool>(document.load_buffer(xml.data(), xml.size()));
  const pugi::xml_node found = document.child("AssumeRoleWithWebIdentityResponse")
                                   .child("AssumeRoleWithWebIdentityResult")
                                   .child("Credentials");
  if (!loaded || !found) return fail(Code::retry, "AssumeRoleWithWebIdentity gave no credentials");
  Credentials out{.access_key = found.child("AccessKeyId").text().get(),
                  .secret_key = {found.child("SecretAccessKey").text().get()},
                  .session_token = {found.child("SessionToken").text().get()},
                  .expires = parse_iso_time(found.child("Expiration").text().get())};
  if (out.access_key.empty() || out.secret_key.empty()) {
    return fail(Code::denied, "AssumeRoleWithWebIdentity gave no credentials");
  }
  return out;
}

Result<Credentials> fetch_credentials(const CredentialOptions& options, const std::string& region,
                                      const std::string& ca_file) {
  if (options.anonymous || !options.access_key.empty()) {
    return Credentials{.access_key = options.access_key,
                       .secret_key = options.secret_key,
                       .session_token = options.session_token,
                       .anonymous = options.anonymous};
  }
  if (!options.web_identity_token_file.empty()) {
    return from_web_identity({.token_file = options.web_identity_token_file,
                              .role_arn = options.role_arn,
                              .session_name = options.role_session_name},
                             options.sts_endpoint, region, ca_file);
  }
  if (std::optional<Result<Credentials>> found = from_profile(options, region, ca_file)) {
    return std::move(*found);
  }
  if (!options.container_uri.empty()) return from_container(options, ca_file);
  if (options.metadata) {
    Result<Credentials> found = from_metadata(options);
    // Off EC2 nobody answers there, which is not worth waiting for at every start.
    if (found || found.error().code() == Code::denied) return found;
  }
  return fail(Code::denied,
              "no credentials: give --s3-access-key, AWS_ACCESS_KEY_ID, a profile, a web identity, "
              "or run where a container or instance role is offered");
}

}  // namespace zerofs::s3
