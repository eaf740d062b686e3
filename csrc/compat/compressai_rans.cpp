#include "compat/compressai_rans.h"

#include <algorithm>

namespace ccm {

namespace {

constexpr uint64_t kLow = uint64_t{1} << 31;  // where the encoder starts
constexpr int kDigitBits = 4;
constexpr uint32_t kMaxDigit = 15;
constexpr uint32_t kMaxDigits = 8;  // more would not fit 32 bits: no encoder writes them

uint32_t word(const uint8_t* p) {
  return p[0] | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

}  // namespace

const char* CompressaiRows::problem() const {
  if (width < 3 || cdf.size() != size.size() * static_cast<size_t>(width) || offset.size() != size.size())
    return "the tables' shapes do not fit each other";
  for (int32_t r = 0; r < count(); ++r) {
    if (size[r] < 3 || size[r] > width) return "a row's length is out of range";
    const int32_t* row = cdf.data() + static_cast<size_t>(r) * width;
    if (row[0] != 0 || row[size[r] - 1] != 1 << 16) return "a row does not run from 0 to 65536";
    for (int32_t k = 1; k < size[r]; ++k)
      if (row[k] <= row[k - 1]) return "a cumulative frequency does not rise";
    if (offset[r] < -(1 << 16) || offset[r] > 1 << 16) return "an offset is out of range";
  }
  return nullptr;
}

CompressaiDecoder::CompressaiDecoder(const uint8_t* data, size_t size) : next_(data), end_(data + size) {
  if (size % 4) {
    damaged_ = true;
  } else if (size < 8) {
    truncated_ = true;
  } else {
    x_ = word(data) | static_cast<uint64_t>(word(data + 4)) << 32;
    next_ += 8;
    damaged_ = x_ < kLow || x_ >> 63;
  }
}

void CompressaiDecoder::refill() {
  if (x_ >= kLow) return;
  if (next_ == end_) {
    truncated_ = true;
    x_ |= kLow;  // any valid state will do
    return;
  }
  x_ = x_ << 32 | word(next_);
  next_ += 4;
}

uint32_t CompressaiDecoder::digit() {
  const uint32_t value = x_ & kMaxDigit;
  x_ >>= kDigitBits;
  refill();
  return value;
}

bool CompressaiDecoder::decode(const CompressaiRows& rows, const int32_t* row, size_t n, int32_t* out) {
  for (size_t i = 0; i < n; ++i) {
    if (failed()) {
      std::fill(out + i, out + n, 0);
      return false;
    }
    const int32_t r = row[i];
    const int32_t* cdf = rows.cdf.data() + static_cast<size_t>(r) * rows.width;
    const int32_t slot = static_cast<int32_t>(x_ & 0xffff);
    const int32_t entry = static_cast<int32_t>(std::upper_bound(cdf + 1, cdf + rows.size[r] - 1, slot) - cdf) - 1;
    x_ = static_cast<uint64_t>(cdf[entry + 1] - cdf[entry]) * (x_ >> 16) + static_cast<uint64_t>(slot - cdf[entry]);
    refill();
    int64_t value = entry;
    if (const int32_t escape = rows.size[r] - 2; entry == escape) {
      uint32_t digits = 0, more;
      do {
        more = digit();
        digits += more;
      } while (more == kMaxDigit && digits <= kMaxDigits);
      if (digits > kMaxDigits) {
        damaged_ = true;
        digits = 0;
      }
      uint32_t raw = 0;
      for (uint32_t k = 0; k < digits; ++k) raw |= digit() << (kDigitBits * k);
      value = raw & 1 ? -static_cast<int64_t>(raw >> 1) - 1 : static_cast<int64_t>(raw >> 1) + escape;
    }
    value += rows.offset[r];
    damaged_ = damaged_ || value < INT32_MIN / 2 || value > INT32_MAX / 2;
    out[i] = damaged_ ? 0 : static_cast<int32_t>(value);
  }
  return !failed();
}

Status CompressaiDecoder::finish() const {
  if (truncated_) return kTruncated;
  return damaged_ || x_ != kLow || next_ != end_ ? kDamaged : kOk;
}

}  // namespace ccm
