// The checksum of files (FORMAT.md).
#pragma once
#include <cstddef>
#include <cstdint>

namespace ccm {

// CRC-32C (Castagnoli) of `size` bytes, continuing from `crc` (0 to start).
uint32_t crc32c(const uint8_t* data, size_t size, uint32_t crc);

}  // namespace ccm
