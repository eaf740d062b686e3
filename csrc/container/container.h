// The .ccm file: magic, version, optional chunks, then one packet (FORMAT.md, section 6).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "container/byte_reader.h"

namespace ccm {

constexpr size_t kMaxChunkBytes = size_t{64} << 20;  // all chunks of a file together

struct Chunk {
  uint8_t kind;  // 'I' ICC profile, 'X' EXIF, 'A' alpha; others are kept too
  Span data;
};

// Views into the file's bytes.
struct Container {
  int32_t version = 0;  // of the format
  std::vector<Chunk> chunks;
  Span packet;
};

// Throws Error: kNotCcm, kUnsupported, kTruncated, kDamaged or kLimit. The packet is not looked into.
Container parse_container(Span file);

}  // namespace ccm
