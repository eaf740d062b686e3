// Launchers, one a kernel; each in the file that is named after it.
#pragma once
#include "entropy/cuda/hyper.h"
#include "entropy/cuda/latents.h"
#include "entropy/cuda/streams.h"

namespace ccm {

// Of a block: twelve warps leave each thread 168 registers (the 16-entry windows of lanes are held in them), and
// twelve tiles of products are the width of ccm-base.
constexpr int32_t kMaxThreads = 384;
// From compute capability 10.0 on the compiler wants more registers for the same code, and would spill.
constexpr int32_t kWideMajor = 10, kMaxThreadsWide = 256;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int32_t kLatentsThreads = kMaxThreadsWide;
#else
constexpr int32_t kLatentsThreads = kMaxThreads;
#endif

// A warp for each sequence that a stream may have.
constexpr int32_t kEncodeThreads = 32 * kMostSequences;

cudaError_t launch_latents(const LatentsArgs& a, int32_t blocks, int32_t threads, cudaStream_t stream);
cudaError_t latents_occupancy(const LatentsArgs& a, int32_t threads, int32_t* blocks_per_multiprocessor);
cudaError_t launch_prepare(const LatentsArgs& a, int32_t blocks, int32_t threads, cudaStream_t stream);
cudaError_t launch_base(const LatentsArgs& a, int32_t groups, int32_t threads, cudaStream_t stream);
cudaError_t launch_status(const LatentsArgs& a, cudaStream_t stream);

cudaError_t launch_prepare_hyper(const HyperArgs& a, int32_t blocks, int32_t threads, cudaStream_t stream);
cudaError_t launch_hyper(const HyperArgs& a, int32_t layer, int32_t h, int32_t w, int32_t threads, cudaStream_t stream);

cudaError_t launch_decode_z(const DecodeZArgs& a, int32_t threads, cudaStream_t stream);
cudaError_t launch_restore(const RestoreArgs& a, cudaStream_t stream);
cudaError_t launch_encode(const EncodeArgs& a, int32_t streams, cudaStream_t stream);

}  // namespace ccm
