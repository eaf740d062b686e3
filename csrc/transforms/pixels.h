// How the last layer of g_s is laid out, and how its numbers become samples.
#pragma once
#include <algorithm>
#include <cstdint>

#include "transforms/synthesis.h"

namespace ccm {

// A latent spans kCells x kCells positions at 1/4 of the picture's sides, and those kCells x kCells pixels each.
constexpr int64_t kCells = 4, kLatentSide = kCells * kCells;
constexpr int32_t kColours = 3, kCellPixels = kCells * kCells, kFeatures = kColours * kCellPixels;

// The nearest integer, of two the even one; below 2^22.
inline int32_t nearest(float v) {
  constexpr float kOnes = 12582912;  // 1.5 * 2^23: its last bit counts ones
  return static_cast<int32_t>((v + kOnes) - kOnes);
}

// Rows and columns of a square of `side` pixels at (top, left) of the picture that belong to the sink.
inline Window seen(const PixelSink& sink, int64_t top, int64_t left, int64_t side) {
  const auto most = [side](int64_t n) { return std::clamp<int64_t>(n, 0, side); };
  return {most(sink.top - top), most(sink.top + sink.height - top), most(sink.left - left),
          most(sink.left + sink.width - left)};
}

// A pixel of the picture in the sink, where it belongs to it.
template <class Sample>
inline Sample* pixel(const PixelSink& sink, int64_t row, int64_t column) {
  char* line = static_cast<char*>(sink.data) + (row - sink.top) * sink.row_bytes;
  return reinterpret_cast<Sample*>(line) + (column - sink.left) * sink.channels;
}

inline float unit(float v) { return v > 0 ? (v < 1 ? v : 1.0f) : 0.0f; }  // NaN: 0

// Values in [0, 1] of a cell's pixels. z: its features; more: the fine channels', or null; grey: all colours are their
// mean.
inline void cell_values(const float* z, const float* more, bool grey, float (&v)[kFeatures]) {
  for (int k = 0; k < kFeatures; ++k) v[k] = z[k];
  if (more)
    for (int k = 0; k < kFeatures; ++k) v[k] += more[k];
  for (int k = 0; k < kFeatures; ++k) v[k] = unit(v[k] * 0.25f + 0.5f);
  if (!grey) return;
  for (int k = 0; k < kCellPixels; ++k)
    v[k] = v[k + kCellPixels] = v[k + 2 * kCellPixels] = (v[k] + v[k + kCellPixels] + v[k + 2 * kCellPixels]) / 3;
}

}  // namespace ccm
