// The persistent kernel: all groups of all images of a batch.
#include "entropy/cuda/kernels_cuda.h"
#include "entropy/cuda/steps.cuh"

namespace ccm {

template <bool kInShared, bool kCrews>
__global__ void __launch_bounds__(kLatentsThreads, 1) latents_kernel(const LatentsArgs a) {
  CCM_DYN_SHARED(shared);
  CCM_SHARED(ticket, int32_t);
  const int32_t groups = a.model->groups;
  unsigned char* arena = a.arena_in_shared ? shared : a.arenas + static_cast<int64_t>(blockIdx.x) * a.arena_bytes;
  GroupCoder<kInShared, kCrews> coder(a, shared, arena);
  bool more = true;     // groups that no block has taken
  bool crews = kCrews;  // that may lack members
  for (;;) {
    if (more && !coder.active()) {
      // Tickets, not block numbers: whatever a group waits for was taken by a block that has certainly started.
      if (threadIdx.x == 0) ticket = atomicAdd(a.progress, 1);
      __syncthreads();
#if CCM_FAULT == 5
      const int32_t index = ticket < a.batch * groups ? a.batch * groups - 1 - ticket : ticket;
#else
      const int32_t index = ticket;
#endif
      __syncthreads();
      // Group after group over the batch: a group that follows one which has just begun waits, and holds its block.
      const int32_t group = quotient(index, a.per_image), image = index - group * a.batch;
      more = group < groups;
      if (more) coder.begin(image, group);
    }
    const bool active = coder.active();
    if (active && coder.ready()) {
      coder.advance();
      continue;
    }
    if constexpr (kCrews)
      if (!active && crews) {
        CrewMember member(a, shared);
        crews = member.join();
        if (crews) member.serve();
        continue;
      }
    if (active) coder.tell();
    // A coder computes what it waits for; a block without a group whatever can be computed.
    const int32_t image = active ? coder.image() : 0, group = active ? coder.group() : 1;
    const Claim claim = claim_task(a, image, active ? image + 1 : a.batch, group, active ? group + 1 : groups);
    if (claim.task.layer >= 0)
      run_task(GroupPlanes(a, claim.image, claim.group), claim.task);
    else if (active || claim.open)
      __nanosleep(active ? 100 : 200);
    else
      return;
  }
}

namespace {

using LatentsKernel = void (*)(LatentsArgs);

LatentsKernel kernel_for(const LatentsArgs& a) {
  if (a.crew.groups) return latents_kernel<true, true>;
  return a.arena_in_shared && a.tables >= 0 ? latents_kernel<true, false> : latents_kernel<false, false>;
}

}  // namespace

cudaError_t launch_latents(const LatentsArgs& a, int32_t blocks, int32_t threads, cudaStream_t stream) {
  return launch(kernel_for(a), dim3(blocks), dim3(threads), static_cast<size_t>(a.shared), stream, false, a);
}

cudaError_t latents_occupancy(const LatentsArgs& a, int32_t threads, int32_t* blocks_per_multiprocessor) {
  int blocks = 0;
  const cudaError_t e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel_for(a), threads, a.shared);
  *blocks_per_multiprocessor = blocks;
  return e;
}

}  // namespace ccm
