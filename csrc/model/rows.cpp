#include "model/rows.h"

#include <algorithm>
#include <string>

#include "format/rans.h"

namespace ccm {

OwnedRows build_rows(const std::vector<int32_t>& lo, const std::vector<int32_t>& n, const std::vector<uint16_t>& cdf) {
  auto fail = [](size_t row, const char* what) {
    throw PlanError("bad table row " + std::to_string(row) + ": " + what);
  };
  if (lo.size() != n.size()) throw PlanError("lo and n differ in length");
  size_t total = 0;
  for (size_t r = 0; r < n.size(); ++r) {
    if (n[r] < 2 || n[r] > kMaxRowEntries) fail(r, "impossible length");
    total += static_cast<size_t>(n[r]);
  }
  if (total != cdf.size()) throw PlanError("the table rows do not add up to the cumulative frequencies");

  OwnedRows out;
  out.info.resize(n.size());
  out.find.resize(n.size());
  out.entries.resize(total);
  out.below.assign(total + kWindow, 0xffff);
  uint32_t first = 0;
  for (size_t r = 0; r < n.size(); ++r) {
    const uint16_t* c = cdf.data() + first;
    if (lo[r] > 0 || lo[r] < kLowestSymbol) fail(r, "its lowest symbol is above zero or out of range");
    if (c[0] != 0) fail(r, "it does not start at 0");
    RowInfo& info = out.info[r];
    info = {};
    info.first = first;
    info.lo = static_cast<int16_t>(lo[r]);
    info.count = static_cast<uint16_t>(n[r]);
    for (int32_t k = 0; k < n[r]; ++k) {
      const uint32_t next = k + 1 < n[r] ? c[k + 1] : 65536;
      if (next <= c[k]) fail(r, "a frequency that is not positive");
      const uint32_t entry = c[k] | (next - c[k]) << 16;
      out.entries[first + k] = entry;
      out.below[first + k] = static_cast<uint16_t>(c[k] - 1);
      if (k == 0 || (k + 1 < n[r] && entry >> 16 > info.top >> 16))
        info.top = entry, info.mode = static_cast<uint16_t>(k);
    }
    const int32_t window = std::max(0, std::min(info.mode - kWindow / 2, n[r] - kWindow));
    info.window = static_cast<uint16_t>(window);
    info.inside = static_cast<uint16_t>(std::min(kWindow, n[r] - window));
    int bits = kLeastBucketBits;
    while (bits < kMostBucketBits && n[r] >> (bits + 1)) ++bits;
    const uint32_t shift = static_cast<uint32_t>(kProbBits - bits);
    out.find[r] = {static_cast<uint32_t>(out.buckets.size()) << 4 | shift, first | static_cast<uint32_t>(-lo[r])
                                                                                       << kOriginBits};
    int32_t k = 0;
    for (uint32_t slot = 0; slot < 65536; slot += 1u << shift) {
      while (k + 1 < n[r] && c[k + 1] <= slot) ++k;
      out.buckets.push_back({out.entries[first + k], static_cast<uint32_t>(k)});
    }
    first += static_cast<uint32_t>(n[r]);
  }
  return out;
}

}  // namespace ccm
