// The convolutions with AVX-512 and its VNNI: vectors of 512 bits, a step of integers one instruction in place of two.
// Twelve rows of one vector are as many sums as the narrower kernels' six rows of two, enough to hide the latency of
// products. Other numbers were not tried.
#include "transforms/direct_vector.h"
#include "transforms/picture_filter_vector.h"
#include "transforms/transform_vector.h"

namespace ccm {

const TransformKernels& fma512vnni_transform_kernels() {
  static const TransformKernels k{winograd<16, 12, false>, winograd<16, 12, true>, direct<16, 12, false>,
                                  direct<16, 12, true>};
  return k;
}

FilterKernels fma512vnni_filter_kernels() { return {differences<16>, apply<16>, sum<16>}; }

}  // namespace ccm
