#include "s3/verdict.h"

#include <fmt/format.h>

#include <algorithm>

namespace zerofs::s3 {

namespace {

template <class... Codes>
bool is_any(std::string_view code, Codes... codes) {
  return ((code == codes) || ...);
}

std::string describe(const Request& request, const Response& response, const ErrorBody& error) {
  // What the server says goes into one line of a log.
  const auto clean = [](std::string_view text) {
    std::string out(text.substr(0, 300));
    std::ranges::replace_if(out, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    return out;
  };
  std::string out = fmt::format("{} {}: ", verb(request.method),
                                request.key.empty() ? "(bucket)" : clean(request.key));
  if (!response.whole()) {
    out += name_of(response.failure);
    const std::string_view text = response.failure_text;
    if (!text.empty() && text != name_of(response.failure)) out += fmt::format(" ({})", text);
    return out;
  }
  out += fmt::format("{}", response.status);
  if (!error.code.empty()) out += " " + clean(error.code);
  if (!error.message.empty()) out += ": " + clean(error.message);
  if (is_html(response.body)) out += ": a web page instead of XML";
  if (!response.request_id.empty()) out += fmt::format(" (request {})", clean(response.request_id));
  return out;
}

Verdict give_up(Code code, const char* text, const Response& response) {
  return {.next = Next::give_up, .error = Error(code, text, response.status)};
}
Verdict again(const Response& response, const char* text) {
  return {.next = Next::again, .error = Error(Code::retry, text, response.status)};
}

Verdict judge_success(const Request& request, const Response& response) {
  if (request.method == Method::put && response.etag.empty()) {
    return give_up(Code::invalid,
                   "S3: a PUT was answered without an ETag: that was not an S3 server", response);
  }
  if (request.range) {
    const u64 end = request.filled + response.received;
    const u64 total = response.content_range ? response.content_range->total : 0;
    if (end < request.into.size() && total > request.range->last) {
      return again(response, "S3: the server sent less than it has");
    }
  }
  if (request.suffix != 0 && response.content_range) {
    const u64 wanted = std::min(request.suffix, response.content_range->total);
    if (response.body.size() != wanted) return again(response, "S3: a tail is incomplete");
  }
  return {};
}

Verdict judge_not_found(const Request& request, const Response& response, const ErrorBody& error) {
  if (error.code == "NoSuchBucket") {
    return give_up(Code::invalid, "S3: the bucket does not exist", response);
  }
  // A 404 of a proxy or of a web server says nothing about the object.
  if (error.code.empty() && !response.body.empty()) {
    return give_up(Code::invalid, "S3: the endpoint is not an S3 server (it answers 404 pages)",
                   response);
  }
  if (request.key.empty()) {
    return give_up(Code::invalid, "S3: the endpoint does not know this request", response);
  }
  return {};
}

Verdict judge_refused(const Response& response, const ErrorBody& error) {
  const std::string& code = error.code;
  if (is_any(code, "RequestTimeTooSkewed", "RequestInTheFuture")) {
    return {.next = Next::fix_clock,
            .error = Error(Code::denied, "S3: this machine's clock is wrong", response.status)};
  }
  if (is_any(code, "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage")) {
    return give_up(Code::no_space, "S3: the bucket's quota is full", response);
  }
  const std::string& region = response.region.empty() ? error.region : response.region;
  const bool other_region = !region.empty() && region != response.region_used;
  if (is_any(code, "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
             "PermanentRedirect") ||
      (response.status == 400 && code.empty() && other_region)) {
    if (other_region) {
      return {.next = Next::move,
              .error = Error(Code::invalid, "S3: the bucket is in another region", response.status),
              .region = region};
    }
    return give_up(Code::invalid, "S3: wrong region or malformed signature", response);
  }
  if (response.status == 401 || response.status == 403 ||
      is_any(code, "ExpiredToken", "InvalidToken", "TokenRefreshRequired")) {
    const char* text = "S3: access denied";
    if (is_any(code, "ExpiredToken", "TokenRefreshRequired")) {
      text = "S3: the session token has expired";
    } else if (is_any(code, "InvalidAccessKeyId", "InvalidToken")) {
      text = "S3: the server does not know this access key";
    } else if (code == "SignatureDoesNotMatch") {
      text = "S3: the secret key is wrong (or the endpoint rewrites requests)";
    }
    return {.next = Next::renew_keys, .error = Error(Code::denied, text, response.status)};
  }
  // Damaged or slow on the way, not wrong.
  if (is_any(code, "RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch",
             "InvalidDigest") ||
      response.status == 408) {
    return again(response, "S3: the request did not arrive whole");
  }
  if (is_html(response.body)) {
    return give_up(Code::invalid, "S3: the endpoint is not an S3 server (it answers web pages)",
                   response);
  }
  return give_up(Code::invalid, "S3: the server refuses the request", response);
}

Verdict judge_redirect(const Response& response, const ErrorBody& error) {
  const std::string& region = response.region.empty() ? error.region : response.region;
  const Error elsewhere(Code::invalid, "S3: the bucket is elsewhere: check region and endpoint",
                        response.status);
  if (!region.empty() && region != response.region_used) {
    return {.next = Next::move, .error = elsewhere, .region = region};
  }
  return {.next = Next::give_up, .error = elsewhere};
}

Verdict judge_whole(const Request& request, const Response& response, const ErrorBody& error) {
  const u32 status = response.status;
  if (status < 300) return judge_success(request, response);
  if (status < 400) return judge_redirect(response, error);
  switch (status) {
    case 404:
    case 410: return judge_not_found(request, response, error);
    case 409:
      return {.next = Next::conflict,
              .error = Error(Code::retry, "S3: conflict with another request", status)};
    case 412:
      if (!request.if_match.empty()) {
        return {.next = Next::unquote,
                .error = Error(Code::retry, "S3: the object changed while it was read", status)};
      }
      return {};
    case 416: return {};
    case 429: return again(response, "S3: the server asks to slow down");
    case 501:
      return give_up(Code::invalid, "S3: the server does not implement what ZeroFS needs",
                     response);
    case 503: return again(response, "S3: the server asks to slow down");
    case 507: return give_up(Code::no_space, "S3: the server is full", response);
    default: break;
  }
  if (status >= 500) return again(response, "S3: the server has an internal error");
  return judge_refused(response, error);
}

}  // namespace

Verdict judge(const Request& request, const Response& response) {
  ErrorBody error;
  if (response.whole() && response.status >= 300) {
    error = parse_error(response.body).value_or(ErrorBody());
  }
  Verdict verdict;
  if (response.whole()) {
    verdict = judge_whole(request, response, error);
  } else if (response.failure == Failure::tls) {
    verdict = give_up(Code::invalid, "S3: the server's certificate is not trusted", response);
  } else {
    verdict = again(response, name_of(response.failure));
  }
  if (verdict.next != Next::done) verdict.why = describe(request, response, error);
  return verdict;
}

}  // namespace zerofs::s3
