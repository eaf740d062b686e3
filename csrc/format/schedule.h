// Which positions may be coded together (FORMAT.md, section 2): pure integer arithmetic, shared by host and device.
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

constexpr int kMaxPattern = 8;
constexpr int kMaxTaps = 49;  // of a 7x7 window

// step(i, j) = row_step * i + col_step * j + pattern[i mod ph][j mod pw]
struct Schedule {
  int32_t row_step, col_step, ph, pw;
  int32_t pattern[kMaxPattern * kMaxPattern];  // row-major, ph x pw

  CCM_HD int32_t step(int32_t i, int32_t j) const {
    return row_step * i + col_step * j + pattern[(i % ph) * pw + j % pw];
  }
};

CCM_HD bool same(const Schedule& a, const Schedule& b) {
  bool equal = a.row_step == b.row_step && a.col_step == b.col_step && a.ph == b.ph && a.pw == b.pw;
  for (int32_t i = 0; equal && i < a.ph * a.pw; ++i) equal = a.pattern[i] == b.pattern[i];
  return equal;
}

// How many steps the neighbour at offset (di, dj) comes before a position of residue class (a, b) = (i mod ph, j mod
// pw).
CCM_HD int32_t tap_lead(const Schedule& s, int32_t a, int32_t b, int32_t di, int32_t dj) {
  int32_t na = ((a + di) % s.ph + s.ph) % s.ph, nb = ((b + dj) % s.pw + s.pw) % s.pw;
  return s.pattern[a * s.pw + b] - (s.row_step * di + s.col_step * dj + s.pattern[na * s.pw + nb]);
}

// Whether the position may read it.
CCM_HD bool tap_available(const Schedule& s, int32_t a, int32_t b, int32_t di, int32_t dj) {
  return tap_lead(s, a, b, di, dj) > 0;
}

}  // namespace ccm
