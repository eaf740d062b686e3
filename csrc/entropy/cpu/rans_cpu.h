// rANS streams on the CPU (FORMAT.md, section 5).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "entropy/cpu/rans_kernels.h"
#include "format/rans.h"
#include "format/tables.h"

namespace ccm {

// Decodes one stream, step by step. Reads nothing outside the given bytes: past the last word it supplies zeros and
// remembers that it did.
class StreamDecoder {
 public:
  // lanes must be valid (valid_lanes); a stream too short for its states starts out truncated.
  // vectors: use the machine's vector kernels; the results are the same.
  StreamDecoder(const uint8_t* data, size_t size, int32_t lanes, bool vectors = true);

  // The next n symbols, one step: out[i] = symbol of row rows[i] + offsets[i] (null: zeros). Returns false once the
  // stream is known to be bad; then the values are meaningless (but written) and decoding should stop.
  bool decode_step(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n, int16_t* out);

  // After the last step: whether everything was as it must be.
  Status finish() const;

 private:
  int32_t checked_rounds(const Rows& tables, const uint16_t* rows, int32_t n, int16_t* out, uint32_t& escaped);
  void add_offsets(const int16_t* offsets, int32_t n, int16_t* out);
  void decode_escapes(const Rows& tables, const uint16_t* rows, const int16_t* offsets, uint32_t lanes, int16_t* out);
  uint32_t raw_bits(int32_t lane, int32_t bits);
  void refill(uint64_t& x);

  uint64_t state_[kMaxLanes];
  uint64_t end_state_;
  const uint8_t* next_;
  const uint8_t* end_;
  RansRounds plain_, vector_;
  int32_t lanes_;
  bool truncated_ = false;
  bool damaged_ = false;
};

// One symbol to encode: a row and the value relative to its offset.
struct Coded {
  int32_t value;
  uint16_t row;
};

// Encodes symbols of consecutive steps; steps[s] is the number of symbols in step s. lanes 0: chosen from the payload
// (lanes_for_payload); the chosen number is stored through lanes_used.
std::vector<uint8_t> encode_stream(const Rows& tables, const std::vector<Coded>& symbols,
                                   const std::vector<int32_t>& steps, int32_t lanes, int32_t* lanes_used);

// CRC-32C (Castagnoli) of `size` bytes, continuing from `crc` (0 to start).
uint32_t crc32c(const uint8_t* data, size_t size, uint32_t crc);

}  // namespace ccm
