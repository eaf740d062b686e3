// The only file that knows whether nvcc or the host emulator (tests/emu) compiles a kernel.
//
// Kernels are written in plain CUDA plus what is defined here. Rules that no compiler checks (docs/cuda.md):
//   - what another block of the same launch writes is read with ld_cg, or after ld_acquire, never through __ldg or
//     const __restrict__ (the compiler would make those non-coherent loads; tests look for them in the machine code);
//   - a poll is ld_relaxed, with one ld_acquire after it: every acquire empties L1; where nobody in the block would
//   miss
//     that (crew.cuh), it is ld_acquire;
//   - masks of collectives are written out.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef CCM_EMU
#include "cuda_emu.h"
#else
#include <cuda_runtime.h>

#include <tuple>
#include <type_traits>
#include <utility>
#endif

// Planted faults for the tests of the tests: 0 is the real thing.
#ifndef CCM_FAULT
#define CCM_FAULT 0
#endif

#define CCM_DEVICE __device__ __forceinline__

namespace ccm {

#ifdef CCM_EMU

// CCM_DYN_SHARED(name): `unsigned char* name`, the launch's dynamic shared memory, 16-byte aligned.
// CCM_SHARED(name, type): static shared memory, CCM_SHARED(buffer, int[64]) too. Contents are garbage at first.
#define CCM_DYN_SHARED(name) unsigned char* name = static_cast<unsigned char*>(::emu::dynamic_shared())
#define CCM_SHARED(name, ...)                                                 \
  static char name##_tag;                                                     \
  ::emu::ident<__VA_ARGS__>& name = *static_cast<::emu::ident<__VA_ARGS__>*>( \
      ::emu::static_shared(&name##_tag, sizeof(__VA_ARGS__), alignof(__VA_ARGS__)))

inline int ld_acquire(const int* p, EMU_SOURCE) {
  emu::poll(EMU_HERE);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
inline int ld_relaxed(const int* p, EMU_SOURCE) {
  emu::poll(EMU_HERE);
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
inline void st_release(int* p, int v) {
  emu::yield(false);
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
  emu::progress();
}
inline void st_relaxed(int* p, int v) {
  emu::yield(false);
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
  emu::progress();
}
template <class T>
T ld_cg(const T* p) {
  return *p;
}
inline int lane_here() { return static_cast<int>(emu::current->lane); }
inline int highest_bit(unsigned x) { return 31 - __builtin_clz(x); }
inline int dp4a_us(unsigned a, int b, int c) { return emu::dot4<uint8_t, int8_t>(a, static_cast<unsigned>(b), c); }

inline void bar_sync(int id, int threads, EMU_SOURCE) {
  emu::block_barrier(id, threads, 0, emu::kNone, true, EMU_HERE);
}
inline void bar_arrive(int id, int threads, EMU_SOURCE) {
  emu::block_barrier(id, threads, 0, emu::kNone, false, EMU_HERE);
}

template <bool A_SIGNED, bool B_SIGNED>
void mma_sm80(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMU_SOURCE) {
  emu::mma_16832<A_SIGNED, B_SIGNED>(d, a, b, EMU_HERE);
}
template <bool A_SIGNED, bool B_SIGNED>
void mma_8816(int& d0, int& d1, unsigned a, unsigned b, EMU_SOURCE) {
  emu::mma_8816<A_SIGNED, B_SIGNED>(d0, d1, a, b, EMU_HERE);
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t, bool cooperative,
                   A&&... arguments) {
  return static_cast<cudaError_t>(emu::launch(kernel, grid, block, shared, cooperative, std::forward<A>(arguments)...));
}

#else  // nvcc, or a host compiler beside it

template <class T>
using ident = T;
#define CCM_DYN_SHARED(name)                                          \
  extern __shared__ __align__(16) unsigned char ccm_dynamic_shared[]; \
  unsigned char* name = ccm_dynamic_shared
#define CCM_SHARED(name, ...) __shared__::ccm::ident<__VA_ARGS__> name

#if defined(__CUDACC__)

CCM_DEVICE int ld_acquire(const int* p) {
  int v;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
CCM_DEVICE int ld_relaxed(const int* p) {
  int v;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
CCM_DEVICE void st_release(int* p, int v) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
CCM_DEVICE void st_relaxed(int* p, int v) {
  asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
// From L2, past L1: what another block of this launch has written (after an acquire).
template <class T>
CCM_DEVICE T ld_cg(const T* p) {
  return __ldcg(p);
}
// Of this thread in its warp; unlike threadIdx.x & 31, computed where it is asked for: what follows from it is not
// carried in registers through everything around.
CCM_DEVICE int lane_here() {
  int n;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(n));
  return n;
}
// Number of the highest bit that is set; x is not 0. (31 - __clz(x) takes two instructions more.)
CCM_DEVICE int highest_bit(unsigned x) {
  int n;
  asm("bfind.u32 %0, %1;" : "=r"(n) : "r"(x));
  return n;
}
// c + the sum of four products, a's bytes unsigned, b's signed
CCM_DEVICE int dp4a_us(unsigned a, int b, int c) {
  int d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Barrier `id` (1..15; 0 is __syncthreads) for `threads` threads of the block, whole warps.
CCM_DEVICE void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
CCM_DEVICE void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#define CCM_MMA_16832(TYPES)                                                \
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." TYPES               \
               ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define CCM_MMA_8816(TYPES)                                                                       \
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." TYPES ".s32 {%0,%1}, {%2}, {%3}, {%0,%1};" \
               : "+r"(d0), "+r"(d1)                                                               \
               : "r"(a), "r"(b))

template <bool A_SIGNED, bool B_SIGNED>
CCM_DEVICE void mma_sm80(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (A_SIGNED && B_SIGNED)
    CCM_MMA_16832("s8.s8");
  else if constexpr (A_SIGNED)
    CCM_MMA_16832("s8.u8");
  else if constexpr (B_SIGNED)
    CCM_MMA_16832("u8.s8");
  else
    CCM_MMA_16832("u8.u8");
}
template <bool A_SIGNED, bool B_SIGNED>
CCM_DEVICE void mma_8816(int& d0, int& d1, unsigned a, unsigned b) {
  if constexpr (A_SIGNED && B_SIGNED)
    CCM_MMA_8816("s8.s8");
  else if constexpr (A_SIGNED)
    CCM_MMA_8816("s8.u8");
  else if constexpr (B_SIGNED)
    CCM_MMA_8816("u8.s8");
  else
    CCM_MMA_8816("u8.u8");
}
#undef CCM_MMA_16832
#undef CCM_MMA_8816

#endif  // __CUDACC__

// Starts a kernel; the error is the launch's own, never that of work before it.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, bool cooperative,
                   A&&... arguments) {
  const void* address = reinterpret_cast<const void*>(kernel);
  if (shared > 48 * 1024) {  // more has to be asked for
    cudaError_t e =
        cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (e != cudaSuccess) return e;
  }
  std::tuple<std::decay_t<P>...> values{static_cast<P>(arguments)...};
  return std::apply(
      [&](auto&... v) {
        void* pointers[sizeof...(P) + 1] = {(void*)&v..., nullptr};
        return cooperative ? cudaLaunchCooperativeKernel(address, grid, block, pointers, shared, stream)
                           : cudaLaunchKernel(address, grid, block, pointers, shared, stream);
      },
      values);
}

#endif  // CCM_EMU

#if defined(CCM_EMU) || defined(__CUDACC__)

// Of all lanes of a warp.
CCM_DEVICE int warp_sum(int v) {
#if (defined(CCM_EMU) && defined(CCM_EMU_SM75)) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
#pragma unroll
  for (int by = 1; by < 32; by *= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
  return v;
#else
  return __reduce_add_sync(0xffffffffu, v);
#endif
}

// sm_75 has m8n8k16 only. Its fragments are the quarters of m16n8k32's, register by register: with g = lane / 4 and
// t = lane % 4, A's registers hold (row g, k 4t..), (row g + 8, k 4t..), (row g, k 16 + 4t..), (row g + 8, k 16 +
// 4t..); B's (k 4t.., column g), (k 16 + 4t.., column g); d's (row g, columns 2t, 2t + 1), then the same of row g + 8.
template <bool A_SIGNED, bool B_SIGNED>
CCM_DEVICE void mma_sm75(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_8816<A_SIGNED, B_SIGNED>(d[0], d[1], a[0], b[0]);
  mma_8816<A_SIGNED, B_SIGNED>(d[2], d[3], a[1], b[0]);
  mma_8816<A_SIGNED, B_SIGNED>(d[0], d[1], a[2], b[1]);
  mma_8816<A_SIGNED, B_SIGNED>(d[2], d[3], a[3], b[1]);
}

// d[16 x 8] += a[16 x 32] b[32 x 8], one warp, fragments as above; the first type is a's.
#if (defined(CCM_EMU) && defined(CCM_EMU_SM75)) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
CCM_DEVICE void mma_u8s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_sm75<false, true>(d, a, b);
}
CCM_DEVICE void mma_s8u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_sm75<true, false>(d, a, b);
}
CCM_DEVICE void mma_s8s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_sm75<true, true>(d, a, b); }
#else
CCM_DEVICE void mma_u8s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_sm80<false, true>(d, a, b);
}
CCM_DEVICE void mma_s8u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_sm80<true, false>(d, a, b);
}
CCM_DEVICE void mma_s8s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_sm80<true, true>(d, a, b); }
#endif

#endif

}  // namespace ccm
