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
  // cleared yet, see clear_to; memory that nobody has touched costs nothing. first: the number of the first row, of
  // planes that are pieces of larger ones.
  Plane(const Kernels& k, int32_t height, int32_t width, int32_t channels, int32_t zero, bool later = false,
        int32_t first = 0)
      : element_(k.element_bytes),
        channels_(channels),
        zero_(zero),
        row_(static_cast<int64_t>(width + 2 * kBorder) * channels),
        rows_(height + 2 * kBorder),
        columns_(width + 2 * kBorder),
        origin_((kBorder - first) * row_ + int64_t{kBorder} * channels),
        data_(new uint8_t[bytes(rows_)]) {
    if (!later) clear_to(height + kBorder);
  }

  // Clears what has not been cleared yet of the rows before `row` and of the columns before `column`, the border's at
  // most.
  void clear_to(int32_t row, int32_t column) {
    const int32_t rows = std::clamp(row + kBorder, cleared_rows_, rows_);
    const int32_t columns = std::clamp(column + kBorder, cleared_columns_, columns_);
    if (columns == columns_ && cleared_columns_ == columns_) {
      clear(bytes(cleared_rows_), bytes(rows) - bytes(cleared_rows_));
    } else {
      const size_t column_bytes = static_cast<size_t>(channels_) * element_;
      for (int32_t i = 0; i < rows; ++i) {
        const int32_t from = i < cleared_rows_ ? cleared_columns_ : 0;
        clear(bytes(i) + from * column_bytes, (columns - from) * column_bytes);
      }
    }
    cleared_rows_ = rows;
    cleared_columns_ = columns;
  }
  void clear_to(int32_t row) { clear_to(row, columns_); }

  // Nobody reads the rows before `row` any more: what may be given back.
  [[nodiscard]] Pages drop_to(int32_t row) {
    return row > -kBorder ? dropped_.to(data_.get(), bytes(rows_), bytes(row + kBorder)) : Pages{};
  }

  uint8_t* at(int32_t i, int32_t j, int32_t channel = 0) {
    return data_.get() + (origin_ + i * row_ + static_cast<int64_t>(j) * channels_ + channel) * element_;
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
  void clear(size_t from, size_t count) { std::memset(data_.get() + from, element_ == 1 ? zero_ : 0, count); }
  size_t bytes(int32_t rows) const { return static_cast<size_t>(rows) * static_cast<size_t>(row_) * element_; }

  int32_t element_ = 1, channels_ = 0, zero_ = 0;
  int64_t row_ = 0;
  int32_t rows_ = 0, columns_ = 0;  // the border's too
  int32_t cleared_rows_ = 0, cleared_columns_ = 0;
  int64_t origin_ = 0;  // elements before the first one that is not of the border, of row 0
  std::unique_ptr<uint8_t[]> data_;
  Dropped dropped_;
};

}  // namespace ccm
