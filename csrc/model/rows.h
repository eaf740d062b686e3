// CDF rows from a plan's arrays (FORMAT.md, section 4), checked and laid out for decoding.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "format/tables.h"

namespace ccm {

// A plan, or tables, that break a rule of FORMAT.md; the message says which.
struct PlanError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A row's n is a 16-bit number in memory; wider rows than this are of no use with 16-bit probabilities.
constexpr int32_t kMaxRowEntries = 8192;

// Keeps the magnitude of every escape below 2^17.
constexpr int32_t kLowestSymbol = -8192;

struct OwnedRows {
  std::vector<RowInfo> info;
  std::vector<RowFind> find;
  std::vector<uint32_t> entries;
  std::vector<uint16_t> below;
  std::vector<Bucket> buckets;

  Rows view() const {
    return {info.data(), find.data(), entries.data(), below.data(), buckets.data(), static_cast<int32_t>(info.size())};
  }
};

// lo and n of each row, and the cumulative frequencies of all rows one after another (sum of n values). Throws
// PlanError.
OwnedRows build_rows(const std::vector<int32_t>& lo, const std::vector<int32_t>& n, const std::vector<uint16_t>& cdf);

}  // namespace ccm
