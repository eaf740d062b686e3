#include "entropy/cpu/winograd_int.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/memory.h"

namespace ccm {
namespace {

// Kernels whose weights lie together in a panel: 16 columns of two channels each.
constexpr int32_t kTogether = 32;
using Weights = int16_t[kTogether];

// Polynomials of three or five coefficients, w[i * step], at the points, times the points' denominators.
void at_points(const Weights* w, int32_t n, int32_t step, Weights* to, int32_t to_step) {
  const Weights &w0 = w[0], &w1 = w[step], &w2 = w[2 * step];
  const Weights none{}, &w3 = n == 5 ? w[3 * step] : none, &w4 = n == 5 ? w[4 * step] : none;
  // In 16 bits, which all of these fit (127 * 7 * 31 at most), so that vectors hold twice as many.
  const auto word = [](int32_t v) { return static_cast<int16_t>(v); };
  for (int32_t l = 0; l < kTogether; ++l) {
    const int16_t even = word(w0[l] + w2[l] + w4[l]), odd = word(w1[l] + w3[l]);
    const int16_t even2 = word(w0[l] + 4 * w2[l] + 16 * w4[l]), odd2 = word(2 * w1[l] + 8 * w3[l]);
    to[0][l] = w0[l];
    to[to_step][l] = word(-even - odd);
    to[2 * to_step][l] = word(odd - even);
    to[3 * to_step][l] = word(even2 + odd2);
    to[4 * to_step][l] = word(even2 - odd2);
    to[5 * to_step][l] = n == 5 ? w4[l] : w2[l];
  }
}

// Bytes of inputs and products that one batch may take. Decoding 32x48 latents of ccm-small took 31 ms with 0.5, 1 and
// 2 MB, and 35 with 6; h_s of mbt2018, whose layers have 8 to 16 MB of weights to read for every batch, took 11 ms with
// any of 2, 6 and 16.
constexpr int64_t kBatchBytes = 2 << 20;

// Tiles are done by so many at once at least, a multiple of the rows of the products' own tiles.
constexpr int32_t kLeastBatch = 12;

// With one tile, weights are read for too little: h_s of mbt2018 on 8x8 latents then took 1.60 ms instead of 1.46.
constexpr int32_t kLeastTiles = 2;

}  // namespace

void pack_points(const int8_t* w, int32_t out, int32_t rows, int32_t columns, int32_t in, int32_t in_pad, int32_t n_pad,
                 const int32_t* source, int16_t* to) {
  const int32_t parts = (rows + 2) / 3;
  const int64_t depth = int64_t{parts} * in_pad, row = static_cast<int64_t>(columns) * in;
  Weights taps[3 * 5], half[kPatch * 5], at[kPoints];
  for (int32_t n = 0; n < n_pad; n += 16)
    for (int32_t part = 0; part < parts; ++part)
      for (int32_t k = 0; k < in_pad; k += 2) {
        std::memset(taps, 0, sizeof taps);
        const int32_t heights = std::min(3, rows - 3 * part);
        for (int32_t l = 0; l < kTogether; ++l) {
          const int32_t c = source[k + l % 2], output = n + l / 2;
          if (c < 0 || output >= out) continue;
          const int8_t* kernel = w + (static_cast<int64_t>(output) * rows + 3 * part) * row + c;
          for (int32_t t = 0; t < heights * columns; ++t) taps[t][l] = kernel[static_cast<int64_t>(t) * in];
        }
        for (int32_t j = 0; j < columns; ++j) at_points(taps + j, 3, columns, half + j, columns);
        for (int32_t i = 0; i < kPatch; ++i) at_points(half + i * columns, columns, 1, at + i * kPatch, 1);
        int16_t* place = to + (n / 16 * depth + part * in_pad + k) * 16;
        for (int32_t p = 0; p < kPoints; ++p) std::memcpy(place + p * depth * n_pad, at[p], sizeof(Weights));
      }
}

bool PointBatch::pays(const PointConv& c, const PointRows& rows) { return rows.down() * rows.across(c) >= kLeastTiles; }

PointBatch::PointBatch(const Kernels& k, const PointConv& c, const PointRows& rows)
    : k_(k),
      c_(c),
      rows_(rows),
      across_(rows.across(c)),
      tiles_(rows.down() * across_),
      zeros_(new int16_t[c.cin_pad]()),
      no_init_(new int32_t[c.n_pad]()) {
  const int64_t bytes = int64_t{kPoints} * (2 * c.depth() + 4 * c.n_pad);
  capacity_ = std::min(tiles_, std::max(kLeastBatch, static_cast<int32_t>(kBatchBytes / bytes)));
  // Not cleared: every element is written before it is read.
  const size_t inputs = static_cast<size_t>(kPoints) * capacity_ * c.depth();
  const size_t products = static_cast<size_t>(kPoints) * capacity_ * c.n_pad;
  inputs_.reset(new int16_t[inputs]);
  products_.reset(new int32_t[products]);
  want_huge_pages(inputs_.get(), inputs * sizeof(int16_t));
  want_huge_pages(products_.get(), products * sizeof(int32_t));
}

void PointBatch::products(int32_t first, int32_t count) {
  const int32_t depth = c_.depth();
  const int64_t stride = static_cast<int64_t>(capacity_) * depth;
  for (int32_t t = 0; t < count; ++t) {
    const int32_t top = rows_.first + (first + t) / across_ * kTileRows - c_.up;
    const int32_t left = (first + t) % across_ * c_.tile_columns() - c_.left;
    for (int32_t part = 0; part < c_.parts(); ++part) {
      const void* pixel[kPoints];
      for (int32_t i = 0; i < kPatch; ++i)
        for (int32_t j = 0; j < kPatch; ++j) {
          const int32_t row = top + 3 * part + i, column = left + j;
          const bool there = row < rows_.last - c_.up + c_.rows - 1 && column < rows_.width + kBorder;
          pixel[i * kPatch + j] =
              there ? static_cast<const void*>(rows_.in.at(row, column, rows_.channel)) : zeros_.get();
        }
      k_.to_points({pixel, c_.cin_pad, &inputs_[static_cast<int64_t>(t) * depth + part * c_.cin_pad], stride});
    }
  }
  std::vector<const void*> a(count);
  const std::vector<const int32_t*> inits(count, no_init_.get());
  const int32_t zero = 0;
  for (int32_t p = 0; p < kPoints; ++p) {
    for (int32_t t = 0; t < count; ++t) a[t] = &inputs_[p * stride + static_cast<int64_t>(t) * depth];
    k_.gemm({a.data(), &zero, c_.weights + static_cast<int64_t>(p) * depth * c_.n_pad, inits.data(),
             &products_[static_cast<int64_t>(p) * capacity_ * c_.n_pad], c_.n_pad, count, 1, depth, c_.n_pad});
  }
}

void PointBatch::sums(int32_t t, const int32_t* init, int32_t* to, int64_t row_stride, int64_t column_stride) const {
  const FromPointsArgs args{&products_[static_cast<int64_t>(t) * c_.n_pad],
                            static_cast<int64_t>(capacity_) * c_.n_pad,
                            init,
                            to,
                            row_stride,
                            column_stride,
                            c_.n_pad};
  (c_.columns == 3 ? k_.from_points3 : k_.from_points5)(args);
}

}  // namespace ccm
