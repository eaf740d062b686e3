#include "transforms/pack_vector.h"

namespace ccm {

const PackKernels& plain_pack_kernels() { return kPackKernels; }

}  // namespace ccm
