// A plane of elements with a border of zeros (kBorder wide), channels last.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/memory.h"
#include "entropy/cpu/kernels.h"
#include "format/fixed_point.h"
#include "model/model.h"

namespace ccm {

class Plane {
 public:
  Plane() = default;
  // Zero everywhere; `zero` is the byte that stands for 0 where elements are bytes (128 for latents). later: nothing is
  // cleared yet, see clear_to; memory that nobody has touched costs nothing.
  Plane(const Kernels& k, int32_t height, int32_t width, int32_t channels, int32_t zero, bool later = false)
      : element_(k.element_bytes),
        channels_(channels),
        zero_(zero),
        row_(static_cast<int64_t>(width + 2 * kBorder) * channels),
        rows_(height + 2 * kBorder),
        data_(new uint8_t[bytes(rows_)]) {
    if (!later) clear_to(height + kBorder);
  }

  // Clears the rows before `row`, the border's at most, that have not been cleared yet.
  void clear_to(int32_t row) {
    const int32_t end = std::min(row + kBorder, rows_);
    if (end <= cleared_) return;
    std::memset(data_.get() + bytes(cleared_), element_ == 1 ? zero_ : 0, bytes(end) - bytes(cleared_));
    cleared_ = end;
  }

  // Gives back the memory of the rows before `row`: nobody reads them any more.
  void drop_to(int32_t row) {
    if (row > -kBorder) dropped_.to(data_.get(), bytes(rows_), bytes(row + kBorder));
  }

  uint8_t* at(int32_t i, int32_t j, int32_t channel = 0) {
    return data_.get() + ((i + kBorder) * row_ + static_cast<int64_t>(j + kBorder) * channels_ + channel) * element_;
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
  size_t bytes(int32_t rows) const { return static_cast<size_t>(rows) * static_cast<size_t>(row_) * element_; }

  int32_t element_ = 1, channels_ = 0, zero_ = 0;
  int64_t row_ = 0;
  int32_t rows_ = 0, cleared_ = 0;  // the border's too
  std::unique_ptr<uint8_t[]> data_;
  Dropped dropped_;
};

}  // namespace ccm
