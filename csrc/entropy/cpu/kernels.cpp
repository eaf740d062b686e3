// Which kernels this machine can run, and the proof that they compute what the scalar ones do.
#include "entropy/cpu/kernels.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/cpu.h"
#include "entropy/cpu/winograd_int.h"
#include "format/fixed_point.h"
#include "format/tables.h"

namespace ccm {
namespace {

const Kernels* available(Isa isa) {
  switch (isa) {
    case kIsaScalar:
      return &scalar_kernels();
#if defined(CCM_HAVE_AVX2)
    case kIsaAvx2:
      return cpu_has(kCpuAvx2) ? &avx2_kernels() : nullptr;
#if defined(CCM_HAVE_AVXVNNI)
    case kIsaAvxVnni:
#if defined(CCM_EMULATE_VNNI)
      return cpu_has(kCpuAvx2) ? &avxvnni_kernels() : nullptr;
#else
      return cpu_has(kCpuAvx2 | kCpuAvxVnni) ? &avxvnni_kernels() : nullptr;
#endif
#endif
#if defined(CCM_HAVE_AVX512VNNI)
    case kIsaAvx512Vnni:
      return cpu_has(kCpuAvx2 | kCpuAvx512 | kCpuAvx512Bw | kCpuAvx512Vnni) ? &avx512vnni_kernels() : nullptr;
#if defined(CCM_HAVE_AVX512AMX)
    case kIsaAvx512Amx:
      return available(kIsaAvx512Vnni) && may_use_tiles() ? &avx512amx_kernels() : nullptr;
#endif
#endif
#endif
#if defined(CCM_HAVE_DOTPROD)
    case kIsaDotProd:
      return cpu_has(kCpuDotProducts) ? &dotprod_kernels() : nullptr;
#endif
#if defined(CCM_HAVE_I8MM)
    case kIsaI8mm:
      return cpu_has(kCpuMixedProducts) ? &i8mm_kernels() : nullptr;
#endif
#if defined(CCM_HAVE_SIMD128)
    case kIsaSimd128:  // a module that has them runs nowhere else
      return &simd128_kernels();
#endif
    default:
      return nullptr;
  }
}

// A small convolution by way of Winograd's points, with operands as large as there are, against plain sums.
bool points_check(const Kernels& k, int32_t columns) {
  constexpr int32_t kHeight = 5, kWidth = 7, kRows = 3, kIn = 12;
  const int32_t n = k.n_block, left = columns / 2;
  uint32_t seed = 7;
  auto sign = [&seed] { return seed = seed * 1664525u + 1013904223u, seed >> 31 ? 1 : -1; };
  Plane plane(k, kHeight, kWidth, kIn, 0);
  for (int32_t i = 0; i < kHeight; ++i)
    for (int32_t j = 0; j < kWidth; ++j)
      for (int32_t c = 0; c < kIn; ++c)
        *reinterpret_cast<int16_t*>(plane.at(i, j, c)) = static_cast<int16_t>(255 * sign());
  std::vector<int8_t> w(static_cast<size_t>(n) * kRows * columns * kIn);
  for (int8_t& v : w) v = static_cast<int8_t>(127 * sign());
  std::vector<int32_t> source(kIn), init(n, 5), sums(static_cast<size_t>(kPatch) * kPatch * n);
  std::iota(source.begin(), source.end(), 0);
  std::vector<int16_t> packed(static_cast<size_t>(point_elements(kRows, kIn, n)));
  pack_points(w.data(), n, kRows, columns, kIn, kIn, n, source.data(), packed.data());
  const PointConv conv{packed.data(), kIn, n, kRows, columns, 1, left};
  PointBatch batch(k, conv, {plane, 0, 0, kHeight, kWidth});
  if (batch.capacity() < batch.tiles()) return false;
  batch.products(0, batch.tiles());
  for (int32_t t = 0; t < batch.tiles(); ++t) {
    batch.sums(t, init.data(), sums.data(), static_cast<int64_t>(kPatch) * n, n);
    const int32_t top = t / batch.across() * kTileRows, first = t % batch.across() * conv.tile_columns();
    for (int32_t i = top; i < std::min(top + kTileRows, kHeight); ++i)
      for (int32_t j = first; j < std::min(first + conv.tile_columns(), kWidth); ++j)
        for (int32_t o = 0; o < n; ++o) {
          int32_t sum = init[o];
          for (int32_t u = 0; u < kRows; ++u)
            for (int32_t v = 0; v < columns; ++v)
              for (int32_t c = 0; c < kIn; ++c)
                sum += *reinterpret_cast<const int16_t*>(plane.at(i - 1 + u, j - left + v, c)) *
                       w[((static_cast<size_t>(o) * kRows + u) * columns + v) * kIn + c];
          if (sums[(static_cast<size_t>(i - top) * kPatch + j - first) * n + o] != sum) return false;
        }
  }
  return true;
}

// Operands for checks: a half of them as small or as large as there are.
class Extremes {
 public:
  int operator()(int64_t lo, int64_t hi) {
    const uint32_t r = next();
    return static_cast<int>(r % 4 == 0 ? lo : r % 4 == 1 ? hi : lo + static_cast<int64_t>(next()) % (hi - lo + 1));
  }

 private:
  uint32_t next() { return seed_ = seed_ * 1664525u + 1013904223u, seed_ >> 8; }
  uint32_t seed_ = 1;
};

// A product of `taps` times `depth` elements, in all row counts, against plain sums. in_order: rows and what their sums
// begin with lie one after the other, as kernels may make use of.
bool product_check(const Kernels& k, int taps, int depth, bool in_order) {
  constexpr int kRows = 35;  // two tiles of the largest kernels, and a rest
  const int n = 2 * k.n_block, all = taps * depth, kb = k.k_block, nb = k.n_block;
  Extremes extreme;
  std::vector<int> x(kRows * all), w(static_cast<size_t>(all) * n);
  for (int& v : x) v = extreme(0, 255);
  for (int& v : w) v = extreme(-127, 127);
  std::vector<uint8_t> a(x.size() * k.element_bytes), packed(w.size() * k.element_bytes);
  auto put = [&](std::vector<uint8_t>& to, size_t at, int v) {
    if (k.element_bytes == 2) {
      const int16_t e = static_cast<int16_t>(v);
      std::memcpy(&to[2 * at], &e, 2);
    } else {
      to[at] = static_cast<uint8_t>(v);
    }
  };
  for (size_t i = 0; i < x.size(); ++i) put(a, i, x[i]);
  for (int i = 0; i < all; ++i)
    for (int col = 0; col < n; ++col) {
      const size_t at = ((static_cast<size_t>(col / nb) * all / kb + i / kb) * nb + col % nb) * kb + i % kb;
      put(packed, at, w[static_cast<size_t>(i) * n + col]);
    }
  std::vector<int32_t> init(2 * static_cast<size_t>(n)), out(static_cast<size_t>(kRows) * n), sums(out.size());
  for (int32_t& v : init) v = extreme(-1000000, 1000000);
  std::vector<int32_t> offsets(taps);
  for (int t = 0; t < taps; ++t) offsets[t] = t * depth;
  const void* rows[kRows];
  const int32_t* inits[kRows];
  for (int m = 0; m < kRows; ++m) {
    const int from = in_order ? m : m * 8 % kRows;
    rows[m] = a.data() + static_cast<size_t>(from) * all * k.element_bytes;
    inits[m] = init.data() + (in_order || m % 3 ? 0 : n);
    int32_t* sum = &sums[static_cast<size_t>(m) * n];
    std::copy_n(inits[m], n, sum);
    for (int i = 0; i < all; ++i)
      for (int col = 0; col < n; ++col) sum[col] += x[from * all + i] * w[static_cast<size_t>(i) * n + col];
  }
  for (int m = 1; m <= kRows; ++m) {
    std::fill(out.begin(), out.end(), 0);
    k.gemm({rows, offsets.data(), packed.data(), inits, out.data(), n, m, taps, depth, n});
    const auto end = out.begin() + static_cast<int64_t>(m) * n;
    if (!std::equal(out.begin(), end, sums.begin())) return false;
    if (std::any_of(end, out.end(), [](int32_t v) { return v != 0; })) return false;
    if (!k.add) continue;
    int32_t* to[kRows];
    for (int r = 0; r < m; ++r) {
      to[r] = &out[static_cast<size_t>(in_order ? r : r * 12 % kRows) * n];
      std::copy_n(inits[r], n, to[r]);
    }
    k.add({rows, offsets.data(), packed.data(), nullptr, nullptr, 0, m, taps, depth, n}, to);
    for (int r = 0; r < m; ++r)
      if (!std::equal(to[r], to[r] + n, &sums[static_cast<size_t>(r) * n])) return false;
  }
  return true;
}

// Every requantization against the scalar ones.
bool requantize_check(const Kernels& k) {
  const int n = 2 * k.n_block;
  Extremes extreme;
  std::vector<int32_t> mult(n), shift(n);
  for (int i = 0; i < n; ++i) {
    mult[i] = extreme(0, 2147483647);
    shift[i] = extreme(34, 62);
  }
  const Kernels& s = scalar_kernels();
  constexpr int kBlockRows = 3;
  const size_t values = static_cast<size_t>(kBlockRows) * n;
  std::vector<int32_t> out(values);
  for (int32_t& v : out) v = extreme(-2000000000, 2000000000);
  const RequantizeArgs block{out.data(), n, mult.data(), shift.data(), n, kBlockRows, n};
  std::vector<int16_t> words(values);
  std::vector<uint8_t> bytes(2 * values);
  s.relu8(block, words.data());
  k.relu8(block, bytes.data());
  for (size_t i = 0; i < values; ++i) {
    int16_t e = bytes[i];
    if (k.element_bytes == 2) std::memcpy(&e, &bytes[2 * i], 2);
    if (e != words[i]) return false;
  }
  // As relu8, and with both ends of the zero's range; negative accumulators have multipliers of their own.
  std::vector<int32_t> below(n);
  for (int32_t& v : below) v = extreme(0, 2147483647);
  for (const int32_t zero : {0, 77, 255}) {
    s.leaky8(block, below.data(), zero, words.data());
    k.leaky8(block, below.data(), zero, bytes.data());
    for (size_t i = 0; i < values; ++i) {
      int16_t e = static_cast<int16_t>(bytes[i] - zero);
      if (k.element_bytes == 2) std::memcpy(&e, &bytes[2 * i], 2);
      if (e != words[i]) return false;
    }
  }
  std::vector<int32_t> expected(values), scaled(values), summed(values, 1);
  s.rescale(block, expected.data());
  k.rescale(block, scaled.data());
  k.accumulate(block, summed.data());
  for (int32_t& v : summed) --v;
  return scaled == expected && summed == expected;
}

// Rows and offsets against choose_row().
bool choose_check(const Kernels& k) {
  constexpr int kChannels = 37, kPositions = 3, kPad = 2 * kChannels + 6, kCodes = 9;
  Extremes extreme;
  std::vector<ScaleRow> table(kCodes);
  std::vector<int32_t> scales(kCodes), heads(kPositions * kPad);
  for (int i = 0; i < kCodes; ++i) {
    table[i] = {extreme(0, 1023), extreme(0, kMeanBits)};
    scales[i] = table[i].first_row << kScaleBits | table[i].bits;
  }
  for (int p = 0; p < kPositions; ++p)
    for (int c = 0; c < kChannels; ++c) {
      heads[p * kPad + c] = p ? extreme(-33000, 33000) : extreme(-2147483647, 2147483647);
      heads[p * kPad + kChannels + c] = p ? extreme(0, kCodes - 1) : extreme(-2147483647, 2147483647);
    }
  std::vector<uint16_t> rows(kPositions * kChannels);
  std::vector<int16_t> offsets(rows.size());
  for (const bool residual : {false, true}) {
    k.choose(
        {heads.data(), kPad, scales.data(), kCodes - 1, kChannels, kPositions, residual, rows.data(), offsets.data()});
    for (int p = 0; p < kPositions; ++p)
      for (int c = 0; c < kChannels; ++c) {
        const int32_t mean = clamp(heads[p * kPad + c], -32768, 32767);
        const RowChoice choice = choose_row(table[clamp(heads[p * kPad + kChannels + c], 0, kCodes - 1)], mean);
        if (rows[p * kChannels + c] != choice.row) return false;
        if (offsets[p * kChannels + c] != (residual ? mean : choice.offset)) return false;
      }
  }
  return true;
}

// Small products and every requantization with extreme operands, against plain arithmetic: kernels are never trusted on
// a processor on which nobody has tested them.
bool self_check(const Kernels& k) {
  if (k.to_points && !(points_check(k, 3) && points_check(k, 5))) return false;
  // The depth of a tile, more and less of it.
  return product_check(k, 3, 12, false) && product_check(k, 2, 64, true) && product_check(k, 1, 76, true) &&
         product_check(k, 2, 52, false) && requantize_check(k) && choose_check(k);
}

// Each instruction set is checked when it is first asked for: a check takes a millisecond, and a command needs one set.
template <int kIsa>
const Kernels* checked() {
  static const Kernels* const found = [] {
    const Kernels* k = available(static_cast<Isa>(kIsa));
    return k && self_check(*k) ? k : nullptr;
  }();
  return found;
}

template <int... kIsa>
const Kernels* checked_at(int isa, std::integer_sequence<int, kIsa...>) {
  static constexpr const Kernels* (*kEach[])() = {checked<kIsa>...};
  return kEach[isa]();
}

}  // namespace

const Kernels* kernels_for(Isa isa) {
  if (isa < 0 || isa >= kIsaCount) return nullptr;
  return checked_at(isa, std::make_integer_sequence<int, kIsaCount>());
}

const Kernels& best_kernels() {
  for (int i = kIsaCount - 1; i > 0; --i)
    if (const Kernels* k = kernels_for(static_cast<Isa>(i))) return *k;
  return scalar_kernels();
}

const Kernels* kernels_by_name(const char* name) {
  if (!*name) name = isa_limit();
  if (!*name) return &best_kernels();
  for (int i = 0; i < kIsaCount; ++i) {
    const Kernels* k = available(static_cast<Isa>(i));
    if (k && !std::strcmp(k->name, name)) return kernels_for(static_cast<Isa>(i));
  }
  return nullptr;
}

}  // namespace ccm
