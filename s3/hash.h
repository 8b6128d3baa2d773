// The hashes that S3 asks for, over libcrypto.
#pragma once

#include <array>
#include <string>

#include "engine/base/types.h"

namespace zerofs::s3 {

using Sha256 = std::array<std::byte, 32>;

Sha256 sha256(Bytes bytes);
Sha256 hmac_sha256(Bytes key, Bytes bytes);
std::string hex(Bytes bytes);         // lower case
std::string md5_base64(Bytes bytes);  // of Content-MD5

}  // namespace zerofs::s3
