// Float products over vectors of kLanes floats (the compiler's vector types), and what follows them while their rows
// are in the cache; included by one file per instruction set. Everything is in an unnamed namespace: code compiled for
// one must not be merged with another's.
#pragma once
#if defined(__AVX__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>

#include "base/memory.h"
#include "transforms/transform.h"

namespace ccm {
namespace {

template <int kLanes>
struct Vector {
  typedef float Reg __attribute__((vector_size(kLanes * sizeof(float)), aligned(kLanes * sizeof(float))));
  typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
  static inline Reg load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
  static inline void store(float* p, Reg v) { *reinterpret_cast<Loose*>(p) = v; }
  static inline Reg all(float v) { return v - Reg{}; }
};

// How a step of a product multiplies: words of 32 bits of a row by kLanes words of a panel's row.
template <int kLanes>
struct Floats {
  static constexpr bool kCarry = true;  // sums go on from tap to tap
  using Reg = typename Vector<kLanes>::Reg;
  static inline Reg load(const float* p) { return Vector<kLanes>::load(p); }
  static inline void store(float* p, Reg v) { Vector<kLanes>::store(p, v); }
  static inline Reg all(const float* p) { return Vector<kLanes>::all(*p); }
  static inline Reg step(Reg sum, Reg x, Reg w) { return sum + x * w; }
};

// ---------------------------------------------------------------------------------------------------------------------
// Products

// c[m][n] = sum over taps t, k of a[m][tap[t] + k] * b[t][k][n], for panels b of kPanel columns. Where words are pairs,
// all lengths count words.
struct Product {
  const float* a;
  int64_t lda;
  const int32_t* tap;
  int32_t taps, k;
  const float* b;
  float* c;
  int64_t ldc;
  int32_t rows, columns;        // columns: rounded up to panels
  const float* next = nullptr;  // what will be read after this product: brought into the cache meanwhile
  int64_t next_floats = 0;
};

// What becomes of finished sums, or of every tap's if they are not carried: nothing, they go to c.
template <int kLanes>
struct Keep {
  using V = Vector<kLanes>;
  inline void operator()(const Product& g, typename V::Reg sum, int32_t row, int32_t column, int32_t) const {
    V::store(g.c + row * g.ldc + column, sum);
  }
};

// What to bring into the cache while a tile is computed: lines of two stretches, so many after every kOften steps. All
// at once, at the tile's start, they kept its own rows waiting: 5 % of a layer's time, a third with few tiles.
constexpr int kOften = 8;
struct Ahead {
  const float *weights, *weights_end, *rows, *rows_end;
  int32_t lines;

  inline void line() {
    if (weights < weights_end) {
      __builtin_prefetch(weights);
      weights += 16;
    } else if (rows < rows_end) {
      __builtin_prefetch(rows, 0, 2);
      rows += 16;
    }
  }
};

// Not inline: the inner loop takes all vector registers and most of the others.
template <int kLanes, int kRows, class M, class Finish>
__attribute__((noinline)) void product_tile(const Product& g, int32_t row, int32_t column, int32_t t, const float* b,
                                            const Ahead& ahead, const Finish& finish) {
  using Reg = typename M::Reg;
  constexpr int kWide = kPanel / kLanes;
  float* c = g.c + row * g.ldc + column;
  Reg acc[kRows][kWide];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kWide; ++n) acc[m][n] = t == 0 || !M::kCarry ? Reg{} : M::load(c + m * g.ldc + n * kLanes);
  const float* a[kRows];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) a[m] = g.a + (row + m) * g.lda + g.tap[t];
  const auto step = [&](int32_t k) __attribute__((always_inline)) {
    Reg w[kWide];
#pragma GCC unroll 4
    for (int n = 0; n < kWide; ++n) w[n] = M::load(b + n * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const Reg x = M::all(a[m] + k);
#pragma GCC unroll 4
      for (int n = 0; n < kWide; ++n) acc[m][n] = M::step(acc[m][n], x, w[n]);
    }
    b += kPanel;
  };
  Ahead soon = ahead;
  int32_t k = 0;
  for (; k + kOften <= g.k; k += kOften) {
    for (int32_t l = 0; l < ahead.lines; ++l) soon.line();
    // With all of them in a row the compiler moves sums about.
#pragma GCC unroll 2
    for (int i = 0; i < kOften; ++i) step(k + i);
  }
  for (; k < g.k; ++k) step(k);
  if (t + 1 == g.taps || !M::kCarry) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < kWide; ++n) finish(g, acc[m][n], row + m, column + n * kLanes, t);
  } else {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < kWide; ++n) M::store(c + m * g.ldc + n * kLanes, acc[m][n]);
  }
}

template <int kLanes, int kRows, class M, class Finish>
inline void product_rows(const Product& g, int32_t row, int32_t count, int32_t column, int32_t t, const float* b,
                         const Ahead& ahead, const Finish& finish) {
  if (count == kRows)
    product_tile<kLanes, kRows, M>(g, row, column, t, b, ahead, finish);
  else if constexpr (kRows > 1)
    product_rows<kLanes, kRows - 1, M>(g, row, count, column, t, b, ahead, finish);
}

// Tap by tap, so that what is used of a panel stays in the first-level cache while the rows pass.
template <int kLanes, int kRows, class Finish = Keep<kLanes>, class M = Floats<kLanes>>
void product(const Product& g, const Finish& finish = Finish()) {
  const int64_t part = static_cast<int64_t>(g.k) * kPanel;
  const int32_t tiles = (g.rows + kRows - 1) / kRows;
  const int64_t steps = static_cast<int64_t>(tiles) * g.taps * (g.columns / kPanel);
  const int64_t share = g.next_floats / steps + 16;
  const float* b = g.b;
  int64_t soon = 0;
  for (int32_t column = 0; column < g.columns; column += kPanel)
    for (int32_t t = 0; t < g.taps; ++t, b += part)
      for (int32_t m = 0; m < tiles; ++m) {
        // The next part of a panel comes from the third-level cache or from memory: ask for a share of it at every
        // tile, and for a share of the next product's rows.
        const int64_t first = part * m / tiles, last = part * (m + 1) / tiles;
        const int64_t end = std::min(soon + share, g.next_floats);
        const int64_t lines = (last - first + end - soon) / 16;
        const Ahead ahead{b + part + first, b + part + last, g.next + soon, g.next + end,
                          static_cast<int32_t>(lines * kOften / g.k + 1)};
        soon = end;
        const int32_t top = static_cast<int32_t>(static_cast<int64_t>(g.rows) * m / tiles);
        const int32_t bottom = static_cast<int32_t>(static_cast<int64_t>(g.rows) * (m + 1) / tiles);
        product_rows<kLanes, kRows, M>(g, top, bottom - top, column, t, b, ahead, finish);
      }
}

// ---------------------------------------------------------------------------------------------------------------------
// What follows a product

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { give(); }
  float* fit(size_t n) {
    if (n > size) {
      give();
      data = take_floats(size = n);
    }
    return data;
  }

  float* data = nullptr;
  size_t size = 0;

 private:
  void give() {
    if (data) give_floats(data, size);
    data = nullptr;
    size = 0;
  }
};

inline int32_t padded(int32_t columns) { return (columns + kPanel - 1) / kPanel * kPanel; }

template <class V>
inline typename V::Reg leaky(typename V::Reg v, float slope) {
  const typename V::Reg scaled = v * slope;
  return v > typename V::Reg{} ? v : scaled;
}

// v ** (-1/2), or a large number in place of an infinite one. Vectors by the processor's estimate and a step of
// Newton's, to 2e-7: square roots and quotients took 3 ms more of a GDN's 81.
template <int kLanes>
inline typename Vector<kLanes>::Reg inverse_root(typename Vector<kLanes>::Reg v) {
  const auto least = Vector<kLanes>::all(1.2e-38f);  // no subnormal number, whose estimate is infinite
  v = v < least ? least : v;
#if defined(__AVX__)
  if constexpr (kLanes == 8) {
    const Vector<8>::Reg r = _mm256_rsqrt_ps(v);
    return r * (1.5f - v * 0.5f * r * r);
  }
#endif
#if defined(__AVX512F__)
  if constexpr (kLanes == 16) {
    const Vector<16>::Reg r = _mm512_maskz_rsqrt14_ps(0xffff, v);
    return r * (1.5f - v * 0.5f * r * r);
  }
#endif
#pragma GCC unroll 8
  for (int l = 0; l < kLanes; ++l) v[l] = 1 / __builtin_sqrtf(v[l]);
  return v;
}

// (Inverse) GDN of sums of squares, put to the rows: x * (beta + gamma x^2) ** (1/2 or -1/2).
template <int kLanes>
struct Normalize {
  using V = Vector<kLanes>;
  const Epilogue& e;
  inline void operator()(const Product& g, typename V::Reg sum, int32_t row, int32_t column, int32_t) const {
    float* at = g.c + row * g.ldc + column;
    const typename V::Reg s = sum + V::load(e.beta + column), y = V::load(at) * inverse_root<kLanes>(s);
    V::store(at, e.activation == kInverseGdn ? y * s : y);
  }
};

// (Inverse) GDN of rows [n][padded(columns)], in place.
template <int kLanes, int kRows>
void gdn_rows(const Epilogue& e, float* rows, int32_t n, int32_t columns, Buffer& squares) {
  using V = Vector<kLanes>;
  const int32_t pad = padded(columns), zero = 0;
  const int64_t count = static_cast<int64_t>(n) * pad;
  float* square = squares.fit(count);
  for (int64_t i = 0; i < count; i += kLanes) V::store(square + i, V::load(rows + i) * V::load(rows + i));
  product<kLanes, kRows>({square, pad, &zero, 1, columns, e.gamma, rows, pad, n, pad}, Normalize<kLanes>{e});
}

// Whether a result, rows of so many columns, should go past the caches: it is larger than what they keep until the next
// layer wants it (32 MB in the third level of most), whole cache lines are written, and they were not just read as a
// residual. Stores of 75 MB took 3.3 ms in place of 5.6; in a residual's place they took 7 more.
template <int kLanes>
inline bool beyond_caches([[maybe_unused]] const Epilogue& e, [[maybe_unused]] const float* y,
                          [[maybe_unused]] int64_t rows, [[maybe_unused]] int32_t columns) {
#if defined(__AVX__)
  constexpr int64_t kFloats = int64_t{12} << 20;
  const bool whole = columns % 16 == 0 && reinterpret_cast<uintptr_t>(y) % 64 == 0;
  return kLanes >= 8 && whole && rows * columns > kFloats && y != e.residual;
#else
  return false;
#endif
}

// After stores past the caches, before another thread is told of them.
inline void store_fence() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

// A finished row to its place in the plane; stream: see beyond_caches.
template <int kLanes>
inline void put_row(const Epilogue& e, const float* from, float* y, int64_t at, int32_t columns,
                    [[maybe_unused]] bool stream) {
  using V = Vector<kLanes>;
  const auto value = [&](int32_t c) {
    return e.residual ? V::load(from + c) + V::load(e.residual + at + c) : V::load(from + c);
  };
  int32_t c = 0;
#if defined(__AVX__)
  if constexpr (kLanes == 8)
    if (stream)
      for (; c < columns; c += kLanes) _mm256_stream_ps(y + at + c, value(c));
#endif
#if defined(__AVX512F__)
  if constexpr (kLanes == 16)
    if (stream)
      for (; c < columns; c += kLanes) _mm512_stream_ps(y + at + c, value(c));
#endif
  for (; c + kLanes <= columns; c += kLanes) V::store(y + at + c, value(c));
  for (; c < columns; ++c) y[at + c] = from[c] + (e.residual ? e.residual[at + c] : 0.0f);
}

}  // namespace
}  // namespace ccm
