// Decoder of the rANS streams that CompressAI writes (its y and z strings), so that old files stay readable.
//
// That format: one 64-bit state, 2^31 <= x < 2^63; 32-bit little-endian words, the state's low half first; 16-bit
// probabilities; what lies outside a row is an escape followed by raw digits of 4 bits. The encoder starts at x = 2^31,
// so a stream that was decoded with the right rows ends in that state with no word left: the only check that it has.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"

namespace ccm {

// CDF rows as CompressAI's entropy models hold them: row r is cdf[r * width .. r * width + size[r]), rising from 0 to
// 65536; its last entry is the escape; offset[r] is the symbol of entry 0.
struct CompressaiRows {
  int32_t width;
  std::vector<int32_t> cdf, size, offset;

  int32_t count() const { return static_cast<int32_t>(size.size()); }
  // What is wrong with the rows, or null.
  const char* problem() const;
};

class CompressaiDecoder {
 public:
  // The bytes must outlive the decoder.
  CompressaiDecoder(const uint8_t* data, size_t size);

  // The next n symbols, of the given rows (valid numbers). Reads nothing outside the stream: past its end it supplies
  // zeros and remembers that it did. Returns false once the stream is known to be bad.
  bool decode(const CompressaiRows& rows, const int32_t* row, size_t n, int32_t* out);

  // Whether the stream is known to be bad: it has ended, or holds what no encoder writes.
  bool failed() const { return truncated_ || damaged_; }

  // After the last symbol.
  Status finish() const;

 private:
  uint32_t digit();
  void refill();

  uint64_t x_ = 0;
  const uint8_t* next_;
  const uint8_t* end_;
  bool truncated_ = false;
  bool damaged_ = false;
};

}  // namespace ccm
