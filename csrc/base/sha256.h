// SHA-256 (FIPS 180-4), for the fingerprints of models.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace ccm {

// The digest of `size` bytes.
std::array<uint8_t, 32> sha256(const uint8_t* data, size_t size);

}  // namespace ccm
