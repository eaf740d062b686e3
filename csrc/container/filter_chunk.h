// Chunk 'F' of a file (FORMAT.md, section 8).
#pragma once
#include <cstdint>
#include <vector>

#include "container/byte_reader.h"
#include "format/picture_filter.h"

namespace ccm {

constexpr uint8_t kFilterChunk = 'F';

// The filter of a chunk, for pictures of so many colours. Throws Error (kDamaged).
PictureFilter parse_filter(Span chunk, int32_t colours);

// The bytes of a chunk.
std::vector<uint8_t> write_filter(const PictureFilter& filter);

// Bits of the coefficients in a chunk, with the Rice parameter that makes them fewest.
int64_t filter_bits(const std::vector<int16_t>& coefficients);

}  // namespace ccm
