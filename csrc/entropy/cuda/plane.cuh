// Planes in device memory: bytes, channels last, bordered by kBorder positions that hold the byte for zero.
#pragma once
#include "entropy/cuda/device.h"
#include "entropy/cuda/model_cuda.h"

namespace ccm {

// Where a plane of one image lies. `data` points at position (0, 0).
struct DevicePlane {
  uint8_t* data;
  int32_t row_stride, stride;  // bytes

  CCM_HD uint8_t* at(int32_t i, int32_t j) const {
    return data + static_cast<int64_t>(i) * row_stride + static_cast<int64_t>(j) * stride;
  }
};

// Bytes of a plane of h x w positions with its border, a multiple of 16.
CCM_HD int64_t plane_bytes(int32_t h, int32_t w, int32_t stride) {
  return (static_cast<int64_t>(h + 2 * kBorder) * (w + 2 * kBorder) * stride + 15) / 16 * 16;
}
CCM_HD DevicePlane plane_at(uint8_t* memory, int32_t w, int32_t stride) {
  const int32_t row = (w + 2 * kBorder) * stride;
  return {memory + static_cast<int64_t>(kBorder) * row + kBorder * stride, row, stride};
}

}  // namespace ccm
