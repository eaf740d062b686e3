// Arguments of the kernels that compute psi.
#pragma once
#include <cstdint>

#include "entropy/cuda/engine_cuda.h"

namespace ccm {

struct HyperArgs {
  const DeviceModel* model;
  const int16_t* z;
  uint8_t* psi;
  uint8_t* scratch;  // [batch]: the plane of z, then the outputs of all layers but the last
  int64_t image_bytes;
  int32_t batch, h, w, hz, wz;
};

}  // namespace ccm
