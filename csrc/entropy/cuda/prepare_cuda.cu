// What has to be in place before latents_kernel: empty planes, counters, and the part of every base that psi decides.
#include "entropy/cuda/chase.cuh"
#include "entropy/cuda/kernels_cuda.h"

namespace ccm {
namespace {

CCM_DEVICE void fill_bytes(uint8_t* to, int64_t bytes, int32_t value) {
  const unsigned word = static_cast<unsigned>(value) * 0x01010101u;
  const uint4 quad_word{word, word, word, word};
#pragma unroll 1
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < bytes / 16;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    reinterpret_cast<uint4*>(to)[i] = quad_word;
}

}  // namespace

// Grid: any number of blocks by images.
__global__ void __launch_bounds__(kMaxThreads, 1) prepare_kernel(const LatentsArgs a) {
  const int32_t image = blockIdx.y;
  const DeviceModel& m = *a.model;
  fill_bytes(a.context + image * a.context_bytes, a.context_bytes, 128);
  for (int32_t g = 0; g < m.groups; ++g)
    for (int32_t l = 0; l + 1 < m.group[g].stack_layers; ++l) {
      const GroupPlanes planes(a, image, g);
      const DevicePlane plane = planes.feature(l);
      fill_bytes(plane.at(-kBorder, -kBorder), plane_bytes(a.h, a.w, plane.stride), m.group[g].stack[l].zero);
    }
  if (image == 0) {
    const int64_t count = 1 + a.batch + static_cast<int64_t>(a.batch) * m.groups * a.progress_stride;
#pragma unroll 1
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x)
      a.progress[i] = 0;
  }
  // psi with its border: rows by blocks, positions by warps, channels by lanes.
  const DevicePlane psi = GroupPlanes(a, image, 0).psi();
  const uint8_t zero = static_cast<uint8_t>(m.group[0].hyper.in_zero);
#pragma unroll 1
  for (int32_t i = static_cast<int32_t>(blockIdx.x) - kBorder; i < a.h + kBorder; i += gridDim.x)
#pragma unroll 1
    for (int32_t j = static_cast<int32_t>(threadIdx.x / 32) - kBorder; j < a.w + kBorder; j += blockDim.x / 32) {
      const bool inside = i >= 0 && j >= 0 && i < a.h && j < a.w;
      const uint8_t* from = a.psi + ((static_cast<int64_t>(image) * a.h + i) * a.w + j) * m.psi_channels;
      for (int32_t c = threadIdx.x & 31; c < psi.stride; c += 32)
        psi.at(i, j)[c] = inside && c < m.psi_channels ? from[c] : zero;
    }
}

// Grid: tile rows x groups (the one dimension that may exceed 65,535), tile columns, images.
__global__ void __launch_bounds__(kMaxThreads, 1) base_kernel(const LatentsArgs a) {
  int32_t row = blockIdx.x, group = 0;
  while (row >= a.order.tiles_i) row -= a.order.tiles_i, ++group;
  const GroupPlanes g(a, blockIdx.z, group);
  const DeviceConv& c = g.d.hyper;
  const int32_t top = row * kDenseRows, left = static_cast<int32_t>(blockIdx.y) * kDenseColumns;
  const int32_t* init = g.m.at<int32_t>(g.d.base_init);
  const Base base = g.base();
  for_each_unit(c.m_tiles, [&](int32_t m_tile) {
    Accumulators<kDenseNT> acc;
    dense_product(g.m, c, g.psi(), top, left, a.h, a.w, m_tile, acc);
    for_each_value(g.m, c, m_tile, acc, [&](int32_t channel, int32_t p, const Rescale& rescale, int32_t value) {
      const DensePosition at(top, left, p);
      if (at.inside(a.h, a.w)) base.at(at.i, at.j)[channel] = init[channel] + rescale.linear(value);
    });
  });
}

// One thread an image.
__global__ void __launch_bounds__(kMaxThreads, 1) status_kernel(const LatentsArgs a) {
#pragma unroll 1
  for (int32_t image = blockIdx.x * blockDim.x + threadIdx.x; image < a.batch; image += gridDim.x * blockDim.x) {
    int32_t status = kOk;
    for (int32_t g = a.model->groups - 1; g >= 0; --g) {
      const int32_t own = a.counters(image, g)[GroupProgress::kStatus];
      if (own != kOk) status = own;
    }
    a.status[image] = status;
  }
}

cudaError_t launch_prepare(const LatentsArgs& a, int32_t blocks, int32_t threads, cudaStream_t stream) {
  return launch(prepare_kernel, dim3(blocks, a.batch), dim3(threads), 0, stream, false, a);
}

cudaError_t launch_base(const LatentsArgs& a, int32_t groups, int32_t threads, cudaStream_t stream) {
  return launch(base_kernel, dim3(a.order.tiles_i * groups, a.order.tiles_j, a.batch), dim3(threads), 0, stream, false,
                a);
}

cudaError_t launch_status(const LatentsArgs& a, cudaStream_t stream) {
#if CCM_FAULT == 6
  if (cudaError_t e = cudaStreamSynchronize(stream)) return e;
#elif CCM_FAULT == 7
  int* memory = nullptr;
  if (cudaError_t e = cudaMalloc(&memory, 4)) return e;
  if (cudaError_t e = cudaFree(memory)) return e;
#elif CCM_FAULT == 8
  int32_t first = 0;
  if (cudaError_t e = cudaMemcpyAsync(&first, a.status, 4, cudaMemcpyDeviceToHost, stream)) return e;
#endif
  return launch(status_kernel, dim3(1), dim3(128), 0, stream, false, a);
}

}  // namespace ccm
