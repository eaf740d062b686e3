#include "entropy/cpu/panels.h"

#include <algorithm>
#include <numeric>

namespace ccm {
namespace {

template <class Element>
void pack_weights(const Layout& layout, const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source, int32_t of_taps, Element* to) {
  const int32_t kb = layout.k_block, nb = layout.n_block, in_pad = static_cast<int32_t>(source.size());
  const int64_t next = static_cast<int64_t>(of_taps) * in;  // from column to column
  for (int32_t first = 0; first < n_pad; first += nb)
    for (int32_t t = 0; t < taps; ++t)
      for (int32_t k = 0; k < in_pad; k += kb, to += nb * kb)
        for (int32_t e = 0; e < kb; ++e) {
          if (source[k + e] < 0) continue;
          const int8_t* from = w + first * next + static_cast<int64_t>(t) * in + source[k + e];
          const int32_t columns = std::min(nb, out - first);
          for (int32_t n = 0; n < columns; ++n) to[n * kb + e] = from[n * next];
        }
}

}  // namespace

void pack_weights(const Layout& layout, const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source, int32_t of_taps, uint8_t* to) {
  if (layout.element_bytes == 2)
    pack_weights(layout, w, out, taps, in, n_pad, source, of_taps, reinterpret_cast<int16_t*>(to));
  else
    pack_weights(layout, w, out, taps, in, n_pad, source, of_taps, reinterpret_cast<int8_t*>(to));
}

std::vector<int32_t> in_order(int32_t n) {
  std::vector<int32_t> v(n);
  std::iota(v.begin(), v.end(), 0);
  return v;
}

std::vector<int32_t> sources(const std::vector<int32_t>& where, int32_t in_pad) {
  std::vector<int32_t> v(in_pad, -1);
  for (size_t c = 0; c < where.size(); ++c) v[where[c]] = static_cast<int32_t>(c);
  return v;
}

}  // namespace ccm
