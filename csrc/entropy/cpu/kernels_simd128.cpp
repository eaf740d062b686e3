// int16 x int16 -> int32 products of WebAssembly (i32x4.dot_i16x8_s), 2 x 16 tiles.
#include <wasm_simd128.h>

#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/kernels_vector.h"
#include "entropy/cpu/winograd_int_vector.h"

namespace ccm {
namespace {

struct Simd128 {
  struct Reg {
    v128_t low, high;
  };
  using Element = int16_t;
  using Weight = int16_t;
  static constexpr int kLanes = 8, kBlock = 2, kRows = 2;
  static Reg load(const int32_t* p) { return {wasm_v128_load(p), wasm_v128_load(p + 4)}; }
  static void store(int32_t* p, Reg v) {
    wasm_v128_store(p, v.low);
    wasm_v128_store(p + 4, v.high);
  }
  static Reg load_weight(const Weight* p) { return {wasm_v128_load(p), wasm_v128_load(p + 8)}; }
  static void add(Reg& acc, v128_t x, Reg w) {
    acc.low = wasm_i32x4_add(acc.low, wasm_i32x4_dot_i16x8(x, w.low));
    acc.high = wasm_i32x4_add(acc.high, wasm_i32x4_dot_i16x8(x, w.high));
  }
  static void step(Reg& acc0, Reg& acc1, const Element* p, Reg w0, Reg w1) {
    const v128_t x = wasm_v128_load32_splat(p);
    add(acc0, x, w0);
    add(acc1, x, w1);
  }
};

}  // namespace

const Kernels& simd128_kernels() {
  // Requantizing is a small part of the work.
  static const Kernels& s = scalar_kernels();
  static const Kernels k{{"simd128", kIsaSimd128, 16, 2, 2},
                         gemm_vector<Simd128>,
                         s.relu8,
                         s.leaky8,
                         s.accumulate,
                         s.rescale,
                         choose_rows,
                         to_points_vector,
                         from_points_vector<4>,
                         from_points_vector<2>};
  return k;
}

}  // namespace ccm
