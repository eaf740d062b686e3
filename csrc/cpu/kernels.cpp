// Which kernels this machine can run, and the proof that they compute what the scalar ones do.
#include "cpu/kernels.h"

#include <cstring>
#include <vector>

namespace ccm {
namespace {

const Kernels* available(Isa isa) {
  switch (isa) {
    case kIsaScalar:
      return &scalar_kernels();
#if defined(CCM_HAVE_AVX2)
    case kIsaAvx2:
      return __builtin_cpu_supports("avx2") ? &avx2_kernels() : nullptr;
#if defined(CCM_HAVE_AVXVNNI)
    case kIsaAvxVnni:
#if defined(CCM_EMULATE_VNNI)
      return __builtin_cpu_supports("avx2") ? &avxvnni_kernels() : nullptr;
#else
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avxvnni") ? &avxvnni_kernels() : nullptr;
#endif
#endif
#if defined(CCM_HAVE_AVX512VNNI)
    case kIsaAvx512Vnni:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") &&
                     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512vnni")
                 ? &avx512vnni_kernels()
                 : nullptr;
#endif
#endif
    default:
      return nullptr;
  }
}

// A small product with extreme operands and all row counts, and every requantization, against plain arithmetic. It
// takes some microseconds and means that kernels are never trusted on a processor on which nobody has tested them.
bool self_check(const Kernels& k) {
  constexpr int kTaps = 3, kK = 12, kRows = 29;
  const int n = 2 * k.n_block;
  uint32_t seed = 1;
  auto next = [&seed] { return seed = seed * 1664525u + 1013904223u, seed >> 8; };
  auto extreme = [&](int64_t lo, int64_t hi) {
    const uint32_t r = next();
    return static_cast<int>(r % 4 == 0 ? lo : r % 4 == 1 ? hi : lo + static_cast<int64_t>(next()) % (hi - lo + 1));
  };
  std::vector<int> x(kRows * kTaps * kK), w(static_cast<size_t>(kTaps) * kK * n);
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
  for (int t = 0; t < kTaps; ++t)
    for (int c = 0; c < kK; ++c)
      for (int col = 0; col < n; ++col) {
        const int kb = k.k_block, nb = k.n_block;
        const size_t at =
            ((static_cast<size_t>(col / nb) * kTaps * kK / kb + (t * kK + c) / kb) * nb + col % nb) * kb + c % kb;
        put(packed, at, w[(static_cast<size_t>(t) * kK + c) * n + col]);
      }
  std::vector<int32_t> init(n), out(static_cast<size_t>(kRows) * n), mult(n), shift(n);
  for (int i = 0; i < n; ++i) {
    init[i] = extreme(-1000000, 1000000);
    mult[i] = extreme(0, 2147483647);
    shift[i] = extreme(34, 62);
  }
  const int32_t offsets[kTaps] = {0, kK, 2 * kK};
  const void* rows[kRows];
  const int32_t* inits[kRows];
  for (int m = 0; m < kRows; ++m) {
    rows[m] = a.data() + static_cast<size_t>(m) * kTaps * kK * k.element_bytes;
    inits[m] = init.data();
  }
  for (int m = 1; m <= kRows; ++m) {
    k.gemm({rows, offsets, packed.data(), inits, out.data(), n, m, kTaps, kK, n});
    for (int r = 0; r < m; ++r)
      for (int col = 0; col < n; ++col) {
        int64_t sum = init[col];
        for (int i = 0; i < kTaps * kK; ++i) sum += x[r * kTaps * kK + i] * w[static_cast<size_t>(i) * n + col];
        if (sum != out[static_cast<size_t>(r) * n + col]) return false;
      }
  }
  const Kernels& s = scalar_kernels();
  constexpr int kBlockRows = 3;
  const size_t values = static_cast<size_t>(kBlockRows) * n;
  for (size_t i = 0; i < values; ++i) out[i] = extreme(-2000000000, 2000000000);
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

}  // namespace

const Kernels* kernels_for(Isa isa) {
  static const struct Table {
    const Kernels* k[kIsaCount];
    Table() {
#if defined(CCM_HAVE_AVX2)
      __builtin_cpu_init();
#endif
      for (int i = 0; i < kIsaCount; ++i) {
        k[i] = available(static_cast<Isa>(i));
        if (k[i] && !self_check(*k[i])) k[i] = nullptr;
      }
    }
  } table;
  return isa >= 0 && isa < kIsaCount ? table.k[isa] : nullptr;
}

const Kernels& best_kernels() {
  for (int i = kIsaCount - 1; i > 0; --i)
    if (const Kernels* k = kernels_for(static_cast<Isa>(i))) return *k;
  return scalar_kernels();
}

const Kernels* kernels_by_name(const char* name) {
  if (!*name) return &best_kernels();
  for (int i = 0; i < kIsaCount; ++i) {
    const Kernels* k = kernels_for(static_cast<Isa>(i));
    if (k && !std::strcmp(k->name, name)) return k;
  }
  return nullptr;
}

}  // namespace ccm
