// psi: the layers of h_s, one launch each.
#include "entropy/cuda/dense.cuh"
#include "entropy/cuda/hyper.h"
#include "entropy/cuda/kernels_cuda.h"

namespace ccm {
namespace {

// Input of a layer of one image.
struct LayerInput {
  DevicePlane plane;
  int32_t h, w;
  int64_t offset;
};

CCM_DEVICE LayerInput input_of(const HyperArgs& a, int32_t image, int32_t layer) {
  const DeviceModel& m = *a.model;
  int32_t h = a.hz, w = a.wz;
  int64_t at = 0;
  for (int32_t l = 0; l < layer; ++l) {
    at += plane_bytes(h, w, m.hs[l].cin_pad);
    h *= m.hs[l].upsample;
    w *= m.hs[l].upsample;
  }
  return {plane_at(a.scratch + image * a.image_bytes + at, w, m.hs[layer].cin_pad), h, w, at};
}

}  // namespace

// Empty planes, and z. Grid: any number of blocks by images.
__global__ void __launch_bounds__(kMaxThreads, 1) prepare_hyper_kernel(const HyperArgs a) {
  const DeviceModel& m = *a.model;
  for (int32_t l = 0; l < m.hs_layers; ++l) {
    const LayerInput in = input_of(a, blockIdx.y, l);
    const int32_t zero = m.hs[l].in_zero;
    const int16_t* z = a.z + static_cast<int64_t>(blockIdx.y) * a.hz * a.wz * m.hyper_channels;
#pragma unroll 1
    for (int32_t i = static_cast<int32_t>(blockIdx.x) - kBorder; i < in.h + kBorder; i += gridDim.x)
#pragma unroll 1
      for (int32_t j = static_cast<int32_t>(threadIdx.x / 32) - kBorder; j < in.w + kBorder; j += blockDim.x / 32) {
        const bool latent = l == 0 && i >= 0 && j >= 0 && i < in.h && j < in.w;
        for (int32_t c = threadIdx.x & 31; c < in.plane.stride; c += 32) {
          int32_t value = zero;
          if (latent && c < m.hyper_channels)
            value += clamp_context(z[(static_cast<int64_t>(i) * a.wz + j) * m.hyper_channels + c]);
          in.plane.at(i, j)[c] = static_cast<uint8_t>(value);
        }
      }
  }
}

// Grid: tile columns, tile rows, images.
__global__ void __launch_bounds__(kMaxThreads, 1) hyper_kernel(const HyperArgs a, const int32_t layer) {
  const DeviceModel& m = *a.model;
  const int32_t image = blockIdx.z;
  const DeviceConv& c = m.hs[layer];
  const LayerInput in = input_of(a, image, layer);
  const int32_t top = static_cast<int32_t>(blockIdx.y) * kDenseRows,
                left = static_cast<int32_t>(blockIdx.x) * kDenseColumns;
  DevicePlane out{a.psi + static_cast<int64_t>(image) * a.h * a.w * m.psi_channels, a.w * m.psi_channels,
                  m.psi_channels};
  int32_t out_h = a.h, out_w = a.w;
  if (layer + 1 < m.hs_layers) {
    const LayerInput next = input_of(a, image, layer + 1);
    out = next.plane;
    out_h = next.h;
    out_w = next.w;
  }
  dense_bytes(m, c, in.plane, top, left, in.h, in.w, out, out_h, out_w);
}

cudaError_t launch_prepare_hyper(const HyperArgs& a, int32_t blocks, int32_t threads, cudaStream_t stream) {
  return launch(prepare_hyper_kernel, dim3(blocks, a.batch), dim3(threads), 0, stream, false, a);
}

cudaError_t launch_hyper(const HyperArgs& a, int32_t layer, int32_t h, int32_t w, int32_t threads,
                         cudaStream_t stream) {
  const dim3 grid(tile_count(w, kDenseColumns), tile_count(h, kDenseRows), a.batch);
  return launch(hyper_kernel, grid, dim3(threads), 0, stream, false, a, layer);
}

}  // namespace ccm
