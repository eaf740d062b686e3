#include "base/checksum.h"

#include <cstring>

namespace ccm {
namespace {

constexpr int kChains = 8;  // a step takes 5 cycles, and a cycle starts one
constexpr uint64_t kOdd = 0x9E3779B97F4A7C15;

// One-to-one in `sum` and in `word`. The rotation brings what the product has moved to the top back to where the next
// product spreads it: without it, two changes of a word's top bit would cancel.
inline uint64_t step(uint64_t sum, uint64_t word) {
  const uint64_t product = (sum ^ word) * kOdd;
  return product << 29 | product >> 35;
}

}  // namespace

uint64_t checksum(const void* data, size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(data);
  uint64_t sums[kChains], words[kChains];
  for (int k = 0; k < kChains; ++k) sums[k] = static_cast<uint64_t>(k);
  const auto take = [&] {
    for (int k = 0; k < kChains; ++k) sums[k] = step(sums[k], words[k]);
  };
  size_t left = bytes;
  for (; left >= sizeof words; left -= sizeof words, at += sizeof words) {
    std::memcpy(words, at, sizeof words);
    take();
  }
  std::memset(words, 0, sizeof words);
  if (left) std::memcpy(words, at, left);
  take();
  uint64_t sum = static_cast<uint64_t>(bytes);
  for (const uint64_t s : sums) sum = step(sum, s);
  return sum;
}

}  // namespace ccm
