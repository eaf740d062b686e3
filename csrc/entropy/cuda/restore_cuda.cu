// What decoded symbols stand for, which g_s reads: the only arithmetic with floats here, behind the integer path.
#include "entropy/cuda/kernels_cuda.h"

namespace ccm {

// Grid: any number of blocks by images.
__global__ void __launch_bounds__(kMaxThreads, 1) restore_kernel(const RestoreArgs a) {
  const int32_t image = blockIdx.y;
  const bool fine = a.status[image] == kOk;  // else neither places nor symbols are all there
  const int16_t* y = a.y + image * a.count;
  float* values = a.values + image * a.count;
  const int32_t* places = reinterpret_cast<const int32_t*>(values);
#pragma unroll 1
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    values[i] = fine ? static_cast<float>(y[i]) + a.shifts[places[i]] : 0.0f;
}

cudaError_t launch_restore(const RestoreArgs& a, cudaStream_t stream) {
  constexpr int32_t kThreads = 256, kMostBlocks = 1024;
  const int64_t blocks = (a.count + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<uint32_t>(blocks < kMostBlocks ? blocks : kMostBlocks), a.batch);
  return launch(restore_kernel, grid, dim3(kThreads), 0, stream, false, a);
}

}  // namespace ccm
