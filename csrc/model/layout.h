// How packed weights lie in memory: what packers need to know of the kernels that read them.
#pragma once
#include <cstdint>

namespace ccm {

// Of those that a machine has, the last is the fastest.
enum Isa : int32_t {
  kIsaScalar = 0,
  kIsaAvx2 = 1,
  kIsaAvxVnni = 2,
  kIsaAvx512Vnni = 3,
  kIsaDotProd = 4,
  kIsaI8mm = 5,
  kIsaSimd128 = 6,
  kIsaAvx512Amx = 7,
  kIsaCount = 8,
};

struct Layout {
  const char* name;
  Isa isa;
  int32_t n_block;        // columns of a weight panel
  int32_t k_block;        // consecutive k values of one column that lie together
  int32_t element_bytes;  // 2: int16 elements and weights; 1: bytes
};

}  // namespace ccm
