// What this processor can do, asked in one place. CCM_FAST_ISA, one of "scalar", "avx2", "avxvnni" and "avx512vnni",
// limits what is chosen where nobody names an instruction set.
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

// The value of CCM_FAST_ISA, empty if there is none.
const char* isa_limit();

// Those features that CCM_FAST_ISA allows; all of them if it is empty or not one of its values.
uint32_t allowed_features();

}  // namespace ccm
