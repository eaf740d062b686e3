#include "search/moves.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "base/interrupt.h"
#include "base/threads.h"
#include "format/code_length.h"
#include "format/symbol.h"

namespace ccm {
namespace {

float bits_of(const MoveTables& t, int32_t row, int32_t symbol) {
  const int32_t entry = symbol - t.lo[row], escape = t.escape[row];
  if (entry >= 0 && entry < escape) return t.bits[t.start[row] + entry];
  return t.bits[t.start[row] + escape] + escape_bits(t.lo[row], escape + 1, symbol);
}

// What g_s reads for a symbol `v` from its offset.
float restored(const MoveTables& t, int32_t symbol, int32_t row, int32_t v) {
  const auto whole = static_cast<float>(symbol);
  if (!t.shifts) return whole;
  return whole + t.shifts[static_cast<int64_t>(row) * (2 * t.reach + 1) + std::clamp(v, -t.reach, t.reach) + t.reach];
}

// Where symbol i is after the pass.
int32_t better(const MoveArgs& a, int64_t i, float slope, float curvature) {
  const MoveTables& t = a.tables;
  const int32_t symbol = a.symbols[i], row = a.row[i], v = symbol - a.offset[i];
  const float here = bits_of(t, row, v), now = restored(t, symbol, row, v), later = a.contexts[i];
  const auto gained = [&](int32_t step) {
    const float moved = restored(t, symbol + step, row, v + step) - now;
    const float bits = bits_of(t, row, v + step) - here + static_cast<float>(step) * later;
    return bits + moved * (slope + curvature * moved);
  };
  const float down = gained(-1), up = gained(1);
  if (std::isnan(down) || std::isnan(up) || !(std::min(down, up) < 0)) return symbol;
  return std::clamp(symbol + (up < down ? 1 : -1), -kSymbolMax, kSymbolMax);
}

}  // namespace

bool move_symbols(const MoveArgs& a, int threads) {
  const int64_t wide = a.width * a.channels;
  std::atomic<bool> good = true;
  parallel_for(threads, a.batch * a.height, [&](int64_t line) {
    poll();
    const int64_t first = line * wide, own = line % a.height * wide;
    const float* curvature = a.curved_everywhere ? a.curvature + first : a.curvature + line / a.height * a.channels;
    for (int64_t k = 0; k < wide; ++k) {
      const int64_t i = first + k;
      const int32_t row = a.row[i];
      if (row < 0 || row >= a.tables.rows) {
        good = false;
        return;
      }
      a.moved[i] = static_cast<float>(a.symbols[i]);
      if (!a.turn[own + k]) continue;
      // Most symbols are at their offsets with tables that say so: what could be saved is then less than a step's bits.
      const float slope = a.slope[i];
      if (a.symbols[i] == a.offset[i] &&
          !(a.tables.farthest * std::abs(slope) + std::abs(a.contexts[i]) > a.tables.least[row]))
        continue;
      a.moved[i] = static_cast<float>(better(a, i, slope, curvature[a.curved_everywhere ? k : k % a.channels]));
    }
  });
  return good;
}

bool coded_bits(const MoveTables& tables, const int32_t* symbols, const int16_t* offset, const int16_t* row,
                int64_t count, int64_t size, double* bits, int threads) {
  constexpr int64_t kPart = 1 << 14;  // sums do not depend on the threads
  const int64_t parts = (size + kPart - 1) / kPart;
  std::vector<double> sums(static_cast<size_t>(count * parts));
  std::atomic<bool> good = true;
  parallel_for(threads, count * parts, [&](int64_t part) {
    poll();
    const int64_t base = part / parts * size, first = base + part % parts * kPart;
    const int64_t last = std::min(first + kPart, base + size);
    double sum = 0;
    for (int64_t i = first; i < last; ++i) {
      if (row[i] < 0 || row[i] >= tables.rows) {
        good = false;
        return;
      }
      sum += double{bits_of(tables, row[i], symbols[i] - offset[i])};
    }
    sums[static_cast<size_t>(part)] = sum;
  });
  for (int64_t k = 0; k < count; ++k) {
    bits[k] = 0;
    for (int64_t p = 0; p < parts; ++p) bits[k] += sums[static_cast<size_t>(k * parts + p)];
  }
  return good;
}

}  // namespace ccm
