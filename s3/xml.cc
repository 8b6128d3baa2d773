#include "s3/xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <pugixml.hpp>

#include "s3/uri.h"

namespace zerofs::s3 {

namespace {

// Namespaces differ between servers and say nothing: elements are found by their plain names.
bool load(pugi::xml_document& document, Bytes body) {
  return static_cast<bool>(
      document.load_buffer(body.data(), body.size(), pugi::parse_default, pugi::encoding_utf8));
}

std::string child_text(const pugi::xml_node& node, const char* name) {
  return node.child(name).text().get();
}

// Names have no control characters, which XML 1.0 could not carry (config.cc refuses them).
void append_text(std::string& out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
}

}  // namespace

std::optional<ErrorBody> parse_error(Bytes body) {
  pugi::xml_document document;
  if (!load(document, body)) return std::nullopt;
  pugi::xml_node error = document.child("Error");
  if (!error) error = document.child("ErrorResponse").child("Error");  // of STS
  if (!error) return std::nullopt;
  return ErrorBody{.code = child_text(error, "Code"),
                   .message = child_text(error, "Message"),
                   .region = child_text(error, "Region")};
}

bool is_html(Bytes body) {
  std::string start(text_of(body.first(std::min<std::size_t>(body.size(), 512))));
  std::ranges::transform(start, start.begin(), [](unsigned char c) { return std::tolower(c); });
  return start.find("<html") != start.npos || start.find("<!doctype html") != start.npos;
}

Result<ListPage> parse_list(Bytes body) {
  pugi::xml_document document;
  if (!load(document, body)) return invalid("S3: the answer to a listing is not XML");
  const pugi::xml_node list = document.child("ListBucketResult");
  if (!list) return invalid("S3: the answer to a listing is not a listing");
  const bool encoded = child_text(list, "EncodingType") == "url";
  ListPage page;
  for (const pugi::xml_node entry : list.children("Contents")) {
    std::string key = child_text(entry, "Key");
    page.keys.push_back(encoded ? unescape(key, Plus::is_space) : std::move(key));
  }
  if (child_text(list, "IsTruncated") == "true") {
    page.continuation = child_text(list, "NextContinuationToken");
    if (page.continuation.empty()) {
      return corrupt("S3: a listing is cut off and does not say how to go on");
    }
  }
  return page;
}

Result<std::vector<DeleteFailure>> parse_delete_result(Bytes body) {
  pugi::xml_document document;
  if (!load(document, body)) return invalid("S3: the answer to a delete is not XML");
  const pugi::xml_node result = document.child("DeleteResult");
  if (!result) return invalid("S3: the answer to a delete is something else");
  std::vector<DeleteFailure> failures;
  for (const pugi::xml_node error : result.children("Error")) {
    failures.push_back({.key = child_text(error, "Key"), .code = child_text(error, "Code")});
  }
  return failures;
}

std::string delete_request(const std::vector<std::string>& keys) {
  std::string out = "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>";
  for (const std::string& key : keys) {
    out += "<Object><Key>";
    append_text(out, key);
    out += "</Key></Object>";
  }
  out += "</Delete>";
  return out;
}

Result<std::string> parse_upload_id(Bytes body) {
  pugi::xml_document document;
  if (!load(document, body)) return invalid("S3: the answer to an upload's start is not XML");
  std::string id = child_text(document.child("InitiateMultipartUploadResult"), "UploadId");
  if (id.empty()) return invalid("S3: the answer to an upload's start has no upload id");
  return id;
}

std::string complete_request(const std::vector<UploadedPart>& parts) {
  std::string out = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
  for (const UploadedPart& part : parts) {
    out += fmt::format("<Part><PartNumber>{}</PartNumber><ETag>", part.number);
    append_text(out, part.etag);
    out += "</ETag></Part>";
  }
  out += "</CompleteMultipartUpload>";
  return out;
}

}  // namespace zerofs::s3
