// Integer matrix kernels, one table per instruction set.
//
// Planes hold "elements": int16 where the products are made by pmaddwd, biased bytes (value + 128 for latents, value +
// zero for leaky8 outputs) where they are made by the dot product of unsigned by signed bytes of VNNI and of Arm. All
// are exact: pmaddwd adds two products of 16-bit numbers in 32 bits, the others four products of bytes in 32 bits, and
// none saturates (pmaddubsw would, so it is not used).
#pragma once
#include <cstdint>

#include "model/layout.h"

namespace ccm {

// c[m][n] = init[m][n] + sum over taps t, k of a[m][tap_offset[t] + k] * w[t][k][n]
struct GemmArgs {
  const void* const* a;        // [m] element pointers
  const int32_t* tap_offset;   // [taps] in elements
  const void* w;               // packed panels
  const int32_t* const* init;  // [m] pointers to n_pad values each
  int32_t* c;                  // [m][ldc]
  int64_t ldc;
  int32_t m, taps, k, n_pad;  // k: elements per tap, a multiple of 4; n_pad: a multiple of Kernels::n_block
};

// A block of accumulators to requantize, one multiplier and shift per column. Outputs have their own row distance.
struct RequantizeArgs {
  const int32_t* acc;  // [rows][ld_acc]
  int64_t ld_acc;
  const int32_t* mult;   // [n]
  const int32_t* shift;  // [n]
  int64_t ld_out;        // in values of the output
  int32_t rows, n;       // n: a multiple of Kernels::n_block
};

// Heads of `count` positions, which become the rows of the tables and the offsets of their symbols.
struct ChooseArgs {
  const int32_t* heads;  // [count][ld_heads]: mean codes of all channels, then their scale codes
  int64_t ld_heads;
  const int32_t* scales;  // [last_scale + 1]: of a scale code, first row << kScaleBits | fraction bits
  int32_t last_scale, channels, count;
  bool residual;     // offsets are mean codes
  uint16_t* rows;    // [count][channels]
  int16_t* offsets;  // [count][channels]
};

// Winograd's transforms (winograd_int.h): channels of a patch of 6x6 elements, to the 36 points, `stride` apart.
struct ToPointsArgs {
  const void* const* pixel;  // [36]
  int32_t channels;          // a multiple of 4
  int16_t* to;
  int64_t stride;
};

// And n products at the 36 points to a tile of sums, init added.
struct FromPointsArgs {
  const int32_t* from;
  int64_t stride;
  const int32_t* init;  // [n]
  int32_t* to;
  int64_t row_stride, column_stride;
  int32_t n;  // a multiple of 8
};

struct Kernels : Layout {
  void (*gemm)(const GemmArgs&);
  void (*relu8)(const RequantizeArgs&, void* out);  // clamp(requantize(acc), 0, 255) as unsigned elements
  // clamp(requantize(acc, acc < 0 ? below : mult), -zero, 255 - zero), plus zero where elements are bytes; below [n]
  void (*leaky8)(const RequantizeArgs&, const int32_t* below, int32_t zero, void* out);
  void (*accumulate)(const RequantizeArgs&, int32_t* out);  // out += requantize(acc)
  void (*rescale)(const RequantizeArgs&, int32_t* out);     // out = requantize(acc)
  void (*choose)(const ChooseArgs&);
  // Null where products of bytes are faster than fewer products of words (VNNI), and in the scalar definition.
  void (*to_points)(const ToPointsArgs&) = nullptr;
  void (*from_points3)(const FromPointsArgs&) = nullptr;  // of kernels with 3 columns: tiles of 4 x 4
  void (*from_points5)(const FromPointsArgs&) = nullptr;  // 5 columns: 4 x 2
  // Rows that a caller gives to gemm at once, kMostRows at most: enough to reuse a weight panel from the first-level
  // cache, few enough for their operands to stay in the second level (24 rows of a 5x5 window over 96 channels: 115
  // kB).
  int32_t rows_at_once = 24;
  // Products that are added to `sums`, a row each, in place of init and c, which are null. Of kernels for which reading
  // weights takes longer than multiplying the rows of a wavefront step by them: they do so for several steps at once
  // where the context is there (GroupDesc::part_taps). Null for others.
  void (*add)(const GemmArgs& args, int32_t* const* sums) = nullptr;
};

constexpr int32_t kMostRows = 64;

const Kernels& scalar_kernels();
#if defined(CCM_HAVE_AVX2)
const Kernels& avx2_kernels();
#if defined(CCM_HAVE_AVXVNNI)
const Kernels& avxvnni_kernels();
#endif
#if defined(CCM_HAVE_AVX512VNNI)
const Kernels& avx512vnni_kernels();
#if defined(CCM_HAVE_AVX512AMX)
const Kernels& avx512amx_kernels();
#endif
#endif
#endif

#if defined(CCM_HAVE_DOTPROD)
const Kernels& dotprod_kernels();
#endif
#if defined(CCM_HAVE_I8MM)
const Kernels& i8mm_kernels();
#endif
#if defined(CCM_HAVE_SIMD128)
const Kernels& simd128_kernels();
#endif

// The kernels of an instruction set, or null when this machine lacks it, this build lacks it, or its results disagreed
// with the scalar kernels in the self-check, which runs when a set is first asked for.
const Kernels* kernels_for(Isa isa);

// The fastest usable one.
const Kernels& best_kernels();

// "avx2" -> its kernels; "" -> the best; null when unknown or unusable.
const Kernels* kernels_by_name(const char* name);

}  // namespace ccm
