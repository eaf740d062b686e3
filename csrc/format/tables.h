// CDF rows in memory and the choice of a row (FORMAT.md, sections 3 and 4), shared by host and device.
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

constexpr int kNumScales = 64;
constexpr int kMeanBits = 4;  // means are in 1/16

// A slot's entry is mostly the one that the slot's bucket begins with. Where it is not, sixteen cumulative values are
// compared at once, beginning at the first entry of a short row, and of a longer one at the bucket's.
constexpr int kWindow = 16;
// Buckets of a row: 2^7 to 2^10 equal parts of the probability range. 2^7 in short rows keep all tables within a
// second-level cache and leave one slot in fifty of a sharp row outside of its bucket's first entry; 2^10 in the widest
// (sigma 256, 2,054 entries) make a bucket near the mean shorter than an entry.
constexpr int kLeastBucketBits = 7, kMostBucketBits = 10;
// RowFind::origin has place for so many bits of `first`; vector kernels leave larger tables to the plain code.
constexpr int kOriginBits = 18;

struct RowInfo {
  uint32_t first;   // index of the row's first entry in `entries` and `below`
  uint32_t top;     // its most probable entry but the escape, as in `entries`
  int16_t lo;       // symbol of entry 0
  uint16_t count;   // entries, the escape (last one) included
  uint16_t mode;    // number of the entry `top`
  uint16_t window;  // the kWindow entries around `mode`, for decoders that hold them in registers: the first of them
  uint16_t inside;  // and how many they are, fewer in shorter rows
  uint16_t unused;
};

// What a bucket begins with. Number and entry lie side by side because one load of eight bytes, an element of a vector
// each, costs a third of what two gathers do (Zen 3), and the second would wait for the first.
struct Bucket {
  uint32_t entry;  // as in Rows::entries
  uint32_t k;      // its number in the row
};

// What finds an entry, eight bytes that vector kernels load together.
struct RowFind {
  uint32_t bucket;  // index of the row's first bucket << 4 | shift; slot >> shift is the bucket
  uint32_t origin;  // first | -lo << kOriginBits
};

// Views of one set of rows inside a packed model.
struct Rows {
  const RowInfo* info;
  const RowFind* find;
  const uint32_t* entries;  // start | freq << 16; every freq lies in 1..65535, since a row has at least two entries
  // start - 1 of every entry, and kWindow times 0xffff at the end: entry k > 0 lies at or below a slot if
  // below[k] < slot. A first entry's 0xffff lies below nothing and so ends the search in the row before it.
  const uint16_t* below;
  const Bucket* buckets;  // the row's entry that holds the bucket's first slot
  int32_t count;
};

// What a plan says of a channel of z that is coded, in place of its value.
constexpr int32_t kCodedChannel = -32768;

// How a scale index chooses its row.
struct ScaleRow {
  int32_t first_row;
  int32_t bits;  // fraction bits b
};

constexpr int kScaleBits = 3;  // of a number that holds `bits` below `first_row`

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
