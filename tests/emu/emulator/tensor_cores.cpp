// The emulated tensor cores' arithmetic.
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "collectives.h"

namespace emu {
namespace {

// d[row][column] += a[row][k] b[column][k]: 8-bit values of any sign, in 16-bit pairs as SSE2 multiplies them.
template <int ROWS, int K>
void multiply(const unsigned (&a)[ROWS][K / 4], const unsigned (&b)[8][K / 4], bool a_signed, bool b_signed,
              int (&d)[ROWS][8]) {
  auto value = [](unsigned word, int i, bool is_signed) {
    auto byte = static_cast<uint8_t>(word >> (8 * i));
    return static_cast<int16_t>(is_signed ? static_cast<int8_t>(byte) : byte);
  };
#if defined(__x86_64__)
  auto widen = [](const unsigned* words, bool is_signed, __m128i* out) {
    for (int i = 0; i < K / 16; ++i) {
      __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words) + i), zero = _mm_setzero_si128();
      out[2 * i] = is_signed ? _mm_srai_epi16(_mm_unpacklo_epi8(zero, v), 8) : _mm_unpacklo_epi8(v, zero);
      out[2 * i + 1] = is_signed ? _mm_srai_epi16(_mm_unpackhi_epi8(zero, v), 8) : _mm_unpackhi_epi8(v, zero);
    }
  };
  (void)value;
  alignas(16) int pairs_of_b[8][K / 2], by_pair[K / 2][8];
  for (int n = 0; n < 8; ++n) widen(b[n], b_signed, reinterpret_cast<__m128i*>(pairs_of_b[n]));
  for (int p = 0; p < K / 2; ++p)
    for (int n = 0; n < 8; ++n) by_pair[p][n] = pairs_of_b[n][p];
  for (int r = 0; r < ROWS; ++r) {
    alignas(16) int pairs[K / 2];
    widen(a[r], a_signed, reinterpret_cast<__m128i*>(pairs));
    __m128i lo = _mm_setzero_si128(), hi = lo;
    for (int p = 0; p < K / 2; ++p) {
      __m128i x = _mm_set1_epi32(pairs[p]);
      lo = _mm_add_epi32(lo, _mm_madd_epi16(x, *reinterpret_cast<const __m128i*>(by_pair[p])));
      hi = _mm_add_epi32(hi, _mm_madd_epi16(x, *reinterpret_cast<const __m128i*>(by_pair[p] + 4)));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(d[r]), lo);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(d[r] + 4), hi);
  }
#else
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < 8; ++n) {
      int sum = 0;  // at most 32 products below 2^16
      for (int k = 0; k < K; ++k) sum += value(a[r][k / 4], k % 4, a_signed) * value(b[n][k / 4], k % 4, b_signed);
      d[r][n] = sum;
    }
#endif
}
int wrapping_sum(int a, int b) { return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); }

}  // namespace

void multiply_16832(const Collective& c, bool a_signed, bool b_signed) {
  if (c.lanes != 0xffffffffu) fail("mma without all 32 lanes, only %08x", c.lanes);
  alignas(16) unsigned a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<const Fragments*>(c.operand[lane]);
    int g = lane / 4, t = lane % 4;
    a[g][t] = f->a[0], a[g + 8][t] = f->a[1], a[g][4 + t] = f->a[2], a[g + 8][4 + t] = f->a[3];
    b[g][t] = f->b[0], b[g][4 + t] = f->b[1];
  }
  int d[16][8];
  multiply<16, 32>(a, b, a_signed, b_signed, d);
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<Fragments*>(c.operand[lane]);
    for (int i = 0; i < 4; ++i) f->d[i] = wrapping_sum(f->d[i], d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
  }
}

void multiply_8816(const Collective& c, bool a_signed, bool b_signed) {
  if (c.lanes != 0xffffffffu) fail("mma without all 32 lanes, only %08x", c.lanes);
  alignas(16) unsigned a[8][4], b[8][4];
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<const Fragments*>(c.operand[lane]);
    a[lane / 4][lane % 4] = f->a[0];
    b[lane / 4][lane % 4] = f->b[0];
  }
  int d[8][8];
  multiply<8, 16>(a, b, a_signed, b_signed, d);
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<Fragments*>(c.operand[lane]);
    for (int i = 0; i < 2; ++i) f->d[i] = wrapping_sum(f->d[i], d[lane / 4][lane % 4 * 2 + i]);
  }
}

}  // namespace emu
