// Goal: the documents of S3 and of those who imitate it are read right; any bytes are survived.
#include "s3/xml.h"

#include <doctest/doctest.h>

namespace zerofs::s3 {

TEST_CASE("xml: errors, of S3 and of STS") {
  const auto error = parse_error(bytes_of(
      "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code>"
      "<Message>the region &apos;a&apos; is wrong</Message><Region>eu-west-1</Region></Error>"));
  REQUIRE(error);
  CHECK(error->code == "AuthorizationHeaderMalformed");
  CHECK(error->message == "the region 'a' is wrong");
  CHECK(error->region == "eu-west-1");
  CHECK(parse_error(bytes_of("<ErrorResponse xmlns=\"https://sts.amazonaws.com/\"><Error>"
                             "<Code>ExpiredTokenException</Code></Error></ErrorResponse>"))
            ->code == "ExpiredTokenException");
  CHECK_FALSE(parse_error(bytes_of("<html><body>no</body></html>")));
  CHECK_FALSE(parse_error(bytes_of("")));
  CHECK(is_html(bytes_of("\n<!DOCTYPE HTML><HTML>")));
  CHECK_FALSE(is_html(bytes_of("<Error/>")));
}

TEST_CASE("xml: listings") {
  const auto page = parse_list(
      bytes_of("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
               "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
               "<Contents><Key>a+b%2Bc</Key></Contents><Contents><Key>d%01</Key></Contents>"
               "<NextContinuationToken>tok&amp;en</NextContinuationToken></ListBucketResult>"));
  REQUIRE(page);
  CHECK(page->keys == std::vector<std::string>{"a b+c", "d\x01"});
  CHECK(page->continuation == "tok&en");
  const auto plain = parse_list(
      bytes_of("<ListBucketResult><Contents><Key>a+b&lt;</Key></Contents></ListBucketResult>"));
  CHECK(plain->keys == std::vector<std::string>{"a+b<"});
  CHECK(plain->continuation.empty());
  CHECK(parse_list(bytes_of("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"))
            .error()
            .code() == Code::corrupt);
  CHECK(parse_list(bytes_of("<html></html>")).error().code() == Code::invalid);
  CHECK(parse_list(bytes_of("<ListBucketResult><Contents>")).error().code() == Code::invalid);
}

TEST_CASE("xml: deletes and uploads") {
  CHECK(delete_request({"a&b", "c"}) ==
        "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>"
        "<Object><Key>a&amp;b</Key></Object><Object><Key>c</Key></Object></Delete>");
  CHECK(parse_delete_result(bytes_of("<DeleteResult/>"))->empty());
  const auto failures = parse_delete_result(bytes_of(
      "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code></Error></DeleteResult>"));
  REQUIRE(failures->size() == 1);
  CHECK(failures->front().code == "AccessDenied");
  CHECK_FALSE(parse_delete_result(bytes_of("ok")));
  CHECK(parse_upload_id(bytes_of("<InitiateMultipartUploadResult><UploadId>u1</UploadId>"
                                 "</InitiateMultipartUploadResult>")) == "u1");
  CHECK_FALSE(parse_upload_id(bytes_of("<InitiateMultipartUploadResult/>")));
  CHECK(complete_request({{1, "\"e\""}}) ==
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part>"
        "<PartNumber>1</PartNumber><ETag>&quot;e&quot;</ETag></Part></CompleteMultipartUpload>");
}

}  // namespace zerofs::s3
