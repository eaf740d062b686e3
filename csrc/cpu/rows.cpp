#include "cpu/rows.h"

#include <algorithm>
#include <string>

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
  out.entries.resize(total);
  out.windows.assign(n.size() * kWindow, 0xffff);
  uint32_t first = 0;
  for (size_t r = 0; r < n.size(); ++r) {
    const uint16_t* c = cdf.data() + first;
    if (lo[r] > 0 || lo[r] < kLowestSymbol) fail(r, "its lowest symbol is above zero or out of range");
    if (c[0] != 0) fail(r, "it does not start at 0");
    int32_t mode = 0;
    uint32_t best = 0;
    for (int32_t k = 0; k < n[r]; ++k) {
      const uint32_t next = k + 1 < n[r] ? c[k + 1] : 65536;
      if (next <= c[k]) fail(r, "a frequency that is not positive");
      const uint32_t freq = next - c[k];
      out.entries[first + k] = c[k] | freq << 16;
      if (freq > best && k + 1 < n[r]) best = freq, mode = k;
    }
    // The window is centred on the mode; what it misses is found by bisection.
    const int32_t start = std::max(0, std::min(mode - kWindow / 2, n[r] - kWindow));
    const int32_t inside = std::min(kWindow, n[r] - start);
    std::copy(c + start, c + start + inside, &out.windows[r * kWindow]);
    out.info[r] = {first, static_cast<int16_t>(lo[r]), static_cast<uint16_t>(n[r]), static_cast<uint16_t>(start),
                   static_cast<uint16_t>(inside)};
    first += static_cast<uint32_t>(n[r]);
  }
  return out;
}

}  // namespace ccm
