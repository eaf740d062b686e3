#include "container/filter_chunk.h"

#include <algorithm>

#include "base/error.h"

namespace ccm {
namespace {

// Bits from the least significant one of each byte on.
constexpr int kStepBits = 3, kSplitBits = kFilterBins - 1, kRiceBits = 3;
constexpr int32_t kLeastStep = 5;
constexpr int32_t kMostRice = (1 << kRiceBits) - 1;

[[noreturn]] void bad(const char* why) { throw Error(ErrorCode::kDamaged, std::string("the picture filter ") + why); }

uint32_t folded(int32_t value) { return value > 0 ? 2u * value - 1 : 2u * -value; }

class BitReader {
 public:
  explicit BitReader(Span all) : all_(all) {}

  uint32_t take(int count) {
    uint32_t value = 0;
    for (int k = 0; k < count; ++k) value |= bit() << k;
    return value;
  }
  int32_t rice(int32_t parameter) {
    constexpr uint32_t kMost = 2 * kFilterMost;
    uint32_t high = 0;
    while (bit())
      if ((++high << parameter) > kMost) bad("has a coefficient out of range");
    const uint32_t value = high << parameter | take(parameter);
    if (value > kMost) bad("has a coefficient out of range");
    return value & 1 ? static_cast<int32_t>(value + 1) / 2 : -static_cast<int32_t>(value / 2);
  }
  // What is left must be fewer than eight zeros.
  void finish() {
    if (all_.size * 8 - position_ >= 8) bad("has bytes too many");
    while (position_ < all_.size * 8)
      if (bit()) bad("does not end in zeros");
  }

 private:
  uint32_t bit() {
    if (position_ >= all_.size * 8) bad("ends too early");
    const uint32_t value = all_.data[position_ / 8] >> position_ % 8 & 1;
    ++position_;
    return value;
  }

  const Span all_;
  size_t position_ = 0;
};

class BitWriter {
 public:
  void put(uint32_t value, int count) {
    for (int k = 0; k < count; ++k, ++position_) {
      if (position_ % 8 == 0) bytes_.push_back(0);
      bytes_.back() |= (value >> k & 1) << position_ % 8;
    }
  }
  void rice(int32_t value, int32_t parameter) {
    const uint32_t all = folded(value);
    for (uint32_t k = 0; k < all >> parameter; ++k) put(1, 1);
    put(0, 1);
    put(all, parameter);
  }
  std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
  std::vector<uint8_t> bytes_;
  size_t position_ = 0;
};

// The Rice parameter that takes the fewest bits, and how many.
std::pair<int32_t, int64_t> best_rice(const std::vector<int16_t>& values) {
  std::pair<int32_t, int64_t> best{0, INT64_MAX};
  for (int32_t k = 0; k <= kMostRice; ++k) {
    int64_t bits = 0;
    for (const int16_t v : values) bits += (folded(v) >> k) + 1 + k;
    if (bits < best.second) best = {k, bits};
  }
  return best;
}

}  // namespace

PictureFilter parse_filter(Span chunk, int32_t colours) {
  BitReader reader(chunk);
  PictureFilter f;
  f.colours = colours;
  f.step = kLeastStep + static_cast<int32_t>(reader.take(kStepBits));
  const uint32_t splits = reader.take(kSplitBits);
  for (int32_t b = 1; b < kFilterBins; ++b)
    f.class_of[b] = static_cast<uint8_t>(f.class_of[b - 1] + (splits >> (b - 1) & 1));
  f.classes = f.class_of[kFilterBins - 1] + 1;
  const auto rice = static_cast<int32_t>(reader.take(kRiceBits));
  f.coefficients.resize(f.size());
  for (int16_t& c : f.coefficients) c = static_cast<int16_t>(reader.rice(rice));
  reader.finish();
  return f;
}

std::vector<uint8_t> write_filter(const PictureFilter& f) {
  BitWriter writer;
  writer.put(static_cast<uint32_t>(f.step - kLeastStep), kStepBits);
  for (int32_t b = 1; b < kFilterBins; ++b) writer.put(f.class_of[b] != f.class_of[b - 1], 1);
  const int32_t rice = best_rice(f.coefficients).first;
  writer.put(static_cast<uint32_t>(rice), kRiceBits);
  for (const int16_t c : f.coefficients) writer.rice(c, rice);
  return writer.take();
}

int64_t filter_bits(const std::vector<int16_t>& coefficients) { return best_rice(coefficients).second; }

}  // namespace ccm
