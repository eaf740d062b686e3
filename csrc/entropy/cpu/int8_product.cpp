#include "entropy/cpu/int8_product.h"

#include <algorithm>

#include "entropy/cpu/panels.h"

namespace ccm {

std::vector<int32_t> int8_product(const Kernels& kernels, const uint8_t* x, const int8_t* w, int32_t m, int32_t k,
                                  int32_t n, int64_t repeats) {
  const int32_t n_pad = round_up(n, kernels.n_block);
  std::vector<uint8_t> packed(static_cast<size_t>(k) * n_pad * kernels.element_bytes);
  pack_weights(kernels, w, n, 1, k, n_pad, in_order(k), 1, packed.data());
  std::vector<uint8_t> elements(static_cast<size_t>(m) * k * kernels.element_bytes);
  for (size_t i = 0; i < static_cast<size_t>(m) * k; ++i)
    if (kernels.element_bytes == 2)
      reinterpret_cast<int16_t*>(elements.data())[i] = x[i];
    else
      elements[i] = x[i];
  const std::vector<int32_t> zeros(n_pad);
  std::vector<int32_t> c(static_cast<size_t>(m) * n_pad), out;
  constexpr int32_t kRows = 48;  // as a caller with plenty of rows would do it
  const int32_t zero = 0;
  const int32_t* inits[kRows];
  std::fill(inits, inits + kRows, zeros.data());
  for (int64_t r = 0; r < repeats; ++r)
    for (int32_t first = 0; first < m; first += kRows) {
      const int32_t rows = std::min(kRows, m - first);
      const void* a[kRows];
      for (int32_t i = 0; i < rows; ++i)
        a[i] = elements.data() + static_cast<size_t>(first + i) * k * kernels.element_bytes;
      kernels.gemm(
          {a, &zero, packed.data(), inits, c.data() + static_cast<size_t>(first) * n_pad, n_pad, rows, 1, k, n_pad});
    }
  for (int32_t i = 0; i < m; ++i)
    out.insert(out.end(), c.begin() + static_cast<size_t>(i) * n_pad, c.begin() + static_cast<size_t>(i) * n_pad + n);
  return out;
}

}  // namespace ccm
