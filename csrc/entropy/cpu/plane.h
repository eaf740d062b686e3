// A plane of elements with a border of zeros (kBorder wide), channels last.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "entropy/cpu/kernels.h"
#include "format/fixed_point.h"
#include "model/model.h"

namespace ccm {

class Plane {
 public:
  Plane() = default;
  // Zero everywhere; `zero` is the byte that stands for 0 where elements are bytes (128 for latents).
  Plane(const Kernels& k, int32_t height, int32_t width, int32_t channels, int32_t zero)
      : element_(k.element_bytes),
        channels_(channels),
        zero_(zero),
        row_(static_cast<int64_t>(width + 2 * kBorder) * channels),
        data_(static_cast<size_t>(height + 2 * kBorder) * row_ * element_,
              static_cast<uint8_t>(k.element_bytes == 1 ? zero : 0)) {}

  uint8_t* at(int32_t i, int32_t j, int32_t channel = 0) {
    return data_.data() + ((i + kBorder) * row_ + static_cast<int64_t>(j + kBorder) * channels_ + channel) * element_;
  }
  const uint8_t* at(int32_t i, int32_t j, int32_t channel = 0) const {
    return const_cast<Plane*>(this)->at(i, j, channel);
  }

  // Distance, in elements, of the neighbour at (di, dj).
  int32_t offset(int32_t di, int32_t dj) const {
    return static_cast<int32_t>(di * row_ + static_cast<int64_t>(dj) * channels_);
  }

  // Latents, clamped to what contexts see.
  void put_latents(int32_t i, int32_t j, int32_t channel, const int16_t* values, int32_t n) {
    uint8_t* to = at(i, j, channel);
    if (element_ == 2) {
      auto* words = reinterpret_cast<int16_t*>(to);
      for (int32_t c = 0; c < n; ++c) words[c] = static_cast<int16_t>(clamp_context(values[c]));
    } else {
      for (int32_t c = 0; c < n; ++c) to[c] = static_cast<uint8_t>(clamp_context(values[c]) + kLatentZero);
    }
  }

  // Latents in units of their own: requantized by channel before they are clamped.
  void put_scaled(int32_t i, int32_t j, int32_t channel, const int16_t* values, int32_t n, const int32_t* mult,
                  const int32_t* shift) {
    uint8_t* to = at(i, j, channel);
    for (int32_t c = 0; c < n; ++c) {
      const int32_t v = clamp_context(requantize(values[c], mult[c], shift[c]));
      if (element_ == 2)
        reinterpret_cast<int16_t*>(to)[c] = static_cast<int16_t>(v);
      else
        to[c] = static_cast<uint8_t>(v + kLatentZero);
    }
  }

  // Bytes, value + zero.
  void put_bytes(int32_t i, int32_t j, const uint8_t* values, int32_t n) {
    uint8_t* to = at(i, j);
    if (element_ == 2) {
      auto* words = reinterpret_cast<int16_t*>(to);
      for (int32_t c = 0; c < n; ++c) words[c] = static_cast<int16_t>(values[c] - zero_);
    } else {
      std::memcpy(to, values, n);
    }
  }

  // The same back.
  void get_bytes(int32_t i, int32_t j, uint8_t* values, int32_t n) const {
    const uint8_t* from = at(i, j);
    if (element_ == 2) {
      const auto* words = reinterpret_cast<const int16_t*>(from);
      for (int32_t c = 0; c < n; ++c) values[c] = static_cast<uint8_t>(words[c] + zero_);
    } else {
      std::memcpy(values, from, n);
    }
  }

 private:
  int32_t element_ = 1, channels_ = 0, zero_ = 0;
  int64_t row_ = 0;
  std::vector<uint8_t> data_;
};

}  // namespace ccm
