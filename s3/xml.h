// What S3 says in XML. Parsers are total: any bytes give a value or an Error.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace zerofs::s3 {

struct ErrorBody {
  std::string code;
  std::string message;
  std::string region;  // of AuthorizationHeaderMalformed
};
// Nothing when the bytes are not an <Error> document.
std::optional<ErrorBody> parse_error(Bytes body);

// For people: does this look like a web page?
bool is_html(Bytes body);

struct ListPage {
  std::vector<std::string> keys;
  std::string continuation;  // empty: this was the last page
};
// Errors: invalid (not a listing), corrupt (truncated without a token).
Result<ListPage> parse_list(Bytes body);

struct DeleteFailure {
  std::string key;
  std::string code;
};
Result<std::vector<DeleteFailure>> parse_delete_result(Bytes body);
// Body of DeleteObjects, in quiet mode.
std::string delete_request(const std::vector<std::string>& keys);

Result<std::string> parse_upload_id(Bytes body);
struct UploadedPart {
  u32 number = 0;
  std::string etag;
};
std::string complete_request(const std::vector<UploadedPart>& parts);

}  // namespace zerofs::s3
