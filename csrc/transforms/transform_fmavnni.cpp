// The convolutions with AVX2, FMA and AVX-VNNI: a step of integers is one instruction in place of two.
#include "transforms/direct_vector.h"
#include "transforms/transform_vector.h"

namespace ccm {

const TransformKernels& fmavnni_transform_kernels() {
  static const TransformKernels k{winograd<8, 6, false>, winograd<8, 6, true>, direct<8, 6, false>, direct<8, 6, true>};
  return k;
}

}  // namespace ccm
