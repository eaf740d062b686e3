// What this processor can do, asked in one place. CCM_FAST_ISA, one of "scalar", "avx2", "avxvnni", "avx512vnni"
// and "avx512amx" (on Arm "dotprod" and "i8mm", in WebAssembly "simd128"), limits what is chosen where nobody names an
// instruction set.
#pragma once
#include <cstdint>

namespace ccm {

// A bit each.
enum CpuFeature : uint32_t {
  kCpuAvx2 = 1,
  kCpuFma = 2,
  kCpuAvxVnni = 4,
  kCpuAvx512 = 8,  // F and VL
  kCpuAvx512Bw = 16,
  kCpuAvx512Vnni = 32,
  kCpuDotProducts = 64,     // FEAT_DotProd of Arm: four products of bytes of one sign
  kCpuMixedProducts = 128,  // FEAT_I8MM: among others, products of unsigned by signed bytes
};

// Of this processor.
uint32_t cpu_features();
inline bool cpu_has(uint32_t features) { return (cpu_features() & features) == features; }

// Whether this process may use AMX's tiles of bytes: the processor has them, the system keeps them when it switches
// threads, and grants them to the process, which is asked of it once. It refuses where a thread's stack for signals is
// too small for them (8 kB). Nothing is asked where CCM_FAST_ISA names another instruction set.
bool may_use_tiles();

// The value of CCM_FAST_ISA, empty if there is none.
const char* isa_limit();

// Whether CCM_FAST_ISA is not "scalar": what runs on every processor of a kind, such as SSE2, is not among the
// features.
bool vectors_allowed();

// Those features that CCM_FAST_ISA allows; all of them if it is empty or not one of its values.
uint32_t allowed_features();

}  // namespace ccm
