// How the last layer of g_s is laid out, and how its numbers become samples.
#pragma once
#include <cstdint>

namespace ccm {

// A latent spans kCells x kCells positions at 1/4 of the picture's sides, and those kCells x kCells pixels each.
constexpr int64_t kCells = 4, kLatentSide = kCells * kCells;
constexpr int32_t kColours = 3, kCellPixels = kCells * kCells, kFeatures = kColours * kCellPixels;

// The nearest integer, of two the even one; below 2^22.
inline int32_t nearest(float v) {
  constexpr float kOnes = 12582912;  // 1.5 * 2^23: its last bit counts ones
  return static_cast<int32_t>((v + kOnes) - kOnes);
}

inline float unit(float v) { return v > 0 ? (v < 1 ? v : 1.0f) : 0.0f; }  // NaN: 0

}  // namespace ccm
