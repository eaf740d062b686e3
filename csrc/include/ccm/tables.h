// CDF rows in memory and the choice of a row (FORMAT.md, sections 3 and 4), shared by host and device.
#pragma once
#include <cstdint>

#include "ccm/platform.h"

namespace ccm {

constexpr int kNumScales = 64;
constexpr int kMeanBits = 4;  // means are in 1/16

// A row's most probable symbols lie together. Sixteen cumulative values around the mode are kept in one 32-byte window;
// a slot inside it is found by one comparison of all sixteen, without a branch that depends on the data.
constexpr int kWindow = 16;

struct RowInfo {
  uint32_t first;   // index of the row's first entry in `entries`
  int16_t lo;       // symbol of entry 0
  uint16_t count;   // entries, the escape (last one) included
  uint16_t window;  // entry at which the window starts
  uint16_t inside;  // entries in the window that exist (the others hold 0xffff)
};

// Views of one set of rows inside a packed model.
struct Rows {
  const RowInfo* info;
  const uint32_t* entries;  // start | freq << 16; every freq lies in 1..65535, since a row has at least two entries
  const uint16_t* windows;  // [row][kWindow] cumulative starts
  int32_t count;
};

// How a scale index chooses its row.
struct ScaleRow {
  int32_t first_row;
  int32_t bits;  // fraction bits b
};

struct RowChoice {
  int32_t offset, row;
};

CCM_HD RowChoice choose_row(const ScaleRow& s, int32_t mean_code) {
  int32_t d = kMeanBits - s.bits;
  int32_t m = (mean_code + ((1 << d) >> 1)) >> d;
  int32_t t = m + ((1 << s.bits) >> 1);
  return {t >> s.bits, s.first_row + (t & ((1 << s.bits) - 1))};
}

}  // namespace ccm
