#include "s3/hash.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

namespace zerofs::s3 {

namespace {
const unsigned char* chars(Bytes bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}
}  // namespace

Sha256 sha256(Bytes bytes) {
  Sha256 out;
  SHA256(chars(bytes), bytes.size(), reinterpret_cast<unsigned char*>(out.data()));
  return out;
}

Sha256 hmac_sha256(Bytes key, Bytes bytes) {
  Sha256 out;
  unsigned size = 0;
  const unsigned char* made =
      HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), chars(bytes), bytes.size(),
           reinterpret_cast<unsigned char*>(out.data()), &size);
  INVARIANT(made != nullptr && size == out.size());
  return out;
}

std::string hex(Bytes bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes.size());
  for (const std::byte b : bytes) {
    out += kDigits[static_cast<u8>(b) >> 4];
    out += kDigits[static_cast<u8>(b) & 15];
  }
  return out;
}

std::string md5_base64(Bytes bytes) {
  unsigned char digest[16];
  unsigned size = 0;
  const int made = EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_md5(), nullptr);
  INVARIANT(made == 1 && size == sizeof digest);
  unsigned char text[25];
  const int length = EVP_EncodeBlock(text, digest, sizeof digest);
  return {reinterpret_cast<const char*>(text), static_cast<std::size_t>(length)};
}

}  // namespace zerofs::s3
