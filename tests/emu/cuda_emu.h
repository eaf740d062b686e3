// The part of CUDA that our kernels use, for g++: one fiber per CUDA thread on one OS thread, scheduled from a seed.
//
// Things that surprise: shared memory is fresh garbage for every block; a warp collective waits until every living lane
// of its mask has come (lanes do not run in lockstep in between, so a missing __syncwarp shows); memory is sequentially
// consistent, so a missing release is seen by ThreadSanitizer only, and speed means nothing. There is no __activemask
// and no __shared__ on purpose: kernels name their masks, and declare shared memory through csrc/cuda/device.h.
//
// Environment, read at every launch:
//   CCM_EMU_SEED      0: threads run in turn; else a random schedule of that seed
//   CCM_EMU_RESIDENT  most blocks on the device at once (default: all, up to 16,384 threads)
//   CCM_EMU_SMEM      shared memory of a block in bytes (default 232,448, as sm_90)
//   CCM_EMU_SMS       multiprocessors that cudaDeviceGetAttribute reports (default 4)
//   CCM_EMU_PATIENCE  polls without a visible change after which all threads are said to spin (default 10 million)
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
constexpr int warpSize = 32;

// ---- the runtime (cuda_emu.cpp, which is never instrumented for ThreadSanitizer) -----------------------------------
namespace emu {

struct Context {  // what a thread may ask about itself
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned lane, warp;
};
extern Context* current;  // of the running fiber

struct Source {
  const char* file;
  int line;
};
#define EMU_SOURCE const char *emu_file = __builtin_FILE(), int emu_line = __builtin_LINE()
#define EMU_HERE (::emu::Source{emu_file, emu_line})

// Operands of a collective stay on the lanes' stacks: all of them are parked while the last one runs `finish`. Only
// members of `lanes` may be touched. TSan must not look at it, since lanes are not synchronised by a shuffle.
struct Collective {
  unsigned mask, lanes;  // lanes: the living ones of mask
  void* operand[32];
};
typedef void (*Finish)(const Collective&);
#define EMU_UNSEEN __attribute__((no_sanitize("thread"), noinline))

enum Op { kSync, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kReduce, kMatch, kMma };
enum Reduction { kNone, kCount, kAnd, kOr };

void warp_op(unsigned mask, int op, void* operand, Finish finish, Source source);
int block_barrier(int id, int count, int predicate, Reduction reduction, bool wait, Source source);
void grid_barrier(Source source);
void yield(bool spinning);  // a place where another thread may run
void poll(Source source);   // the same, where a thread may be waiting for another
void progress();            // something that other threads poll has changed
void fence();
[[noreturn]] void fail(const char* format, ...);
void* dynamic_shared();
void* static_shared(const void* tag, size_t bytes, size_t align);
int run(dim3 grid, dim3 block, size_t shared, bool cooperative, void (*body)(void*), void* argument);
const char* last_error();  // what was wrong with the last launch, "" when nothing
bool capturing();
void record(std::function<int()> work);
int refuse_capture(const char* call);  // of a call that is not allowed while work is captured; its error code
int attribute(int which);
template <class T>
using ident = T;

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, bool cooperative, A&&... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> arguments;
  } call{kernel, {static_cast<P>(arguments)...}};
  auto work = [=]() mutable {
    auto body = [](void* p) {
      auto* c = static_cast<Call*>(p);
      std::apply(c->kernel, c->arguments);
    };
    return run(grid, block, shared, cooperative, body, &call);
  };
  if (!capturing()) return work();
  record(work);
  return 0;
}

}  // namespace emu

#define threadIdx (::emu::current->thread)
#define blockIdx (::emu::current->block)
#define blockDim (::emu::current->block_dim)
#define gridDim (::emu::current->grid_dim)

// ---- the host's side: device memory is host memory, every stream is synchronous ------------------------------------
// One stream at a time may be captured. What a real driver refuses then is refused here, and ends the capture: waiting
// for the device, taking memory from it, copies that wait for the host.
typedef void* cudaStream_t;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorCooperativeLaunchTooLarge = 720
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : emu::last_error(); }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t allowed(const char* call) { return static_cast<cudaError_t>(emu::refuse_capture(call)); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return allowed("cudaStreamSynchronize"); }
inline cudaError_t cudaDeviceSynchronize() { return allowed("cudaDeviceSynchronize"); }
template <class T>
cudaError_t cudaMalloc(T** p, size_t bytes) {
  if (cudaError_t e = allowed("cudaMalloc")) return e;
  return *p = static_cast<T*>(::operator new(bytes)), cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  if (cudaError_t e = allowed("cudaFree")) return e;
  return ::operator delete(p), cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = emu::attribute(which), cudaSuccess;
}
template <class K>
cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <class K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, K, int threads, size_t shared) {
  int by_threads = 2048 / threads;
  // 1 KB of a multiprocessor's shared memory is the system's, for every block.
  int by_shared = static_cast<int>(emu::attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (shared + 1024));
  *blocks = by_threads < by_shared ? by_threads : by_shared;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) {
  auto work = [=] { return memset(p, v, n), 0; };
  return emu::capturing() ? (emu::record(work), cudaSuccess) : (work(), cudaSuccess);
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind kind, cudaStream_t) {
  auto work = [=] { return memcpy(to, from, n), 0; };
  if (!emu::capturing()) return work(), cudaSuccess;
  // From and to memory that is not pinned, which is all there is here, a copy waits for the host.
  if (kind != cudaMemcpyDeviceToDevice) return allowed("cudaMemcpyAsync between host and device");
  return emu::record(work), cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  if (cudaError_t e = allowed("cudaMemcpy")) return e;
  return memcpy(to, from, n), cudaSuccess;
}

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
struct emu_graph {
  std::vector<std::function<int()>> work;
};
typedef emu_graph* cudaGraph_t;
typedef emu_graph* cudaGraphExec_t;
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph);  // null after an invalid capture
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = emu::capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long = 0) {
  return *exec = new emu_graph(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& work : exec->work)
    if (int e = work()) return static_cast<cudaError_t>(e);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }

// ---- barriers ------------------------------------------------------------------------------------------------------
inline void __syncthreads(EMU_SOURCE) { emu::block_barrier(0, 0, 0, emu::kNone, true, EMU_HERE); }
inline int __syncthreads_count(int p, EMU_SOURCE) {
  return emu::block_barrier(0, 0, p != 0, emu::kCount, true, EMU_HERE);
}
inline int __syncthreads_and(int p, EMU_SOURCE) { return emu::block_barrier(0, 0, p != 0, emu::kAnd, true, EMU_HERE); }
inline int __syncthreads_or(int p, EMU_SOURCE) { return emu::block_barrier(0, 0, p != 0, emu::kOr, true, EMU_HERE); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_SOURCE) {
  emu::warp_op(mask, emu::kSync, nullptr, nullptr, EMU_HERE);
}
inline void __threadfence() { emu::fence(); }
inline void __threadfence_block() { emu::fence(); }
inline void __nanosleep(unsigned) { emu::yield(true); }

// ---- warp collectives ----------------------------------------------------------------------------------------------
namespace emu {

template <class T>
struct Shuffle {
  T value;
  int source, width;
  T result;
};

template <class T, int OP>
EMU_UNSEEN void finish_shuffle(const Collective& c) {
  static const char* const names[] = {"", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  for (int lane = 0; lane < 32; ++lane) {
    if (!(c.lanes >> lane & 1)) continue;
    auto* s = static_cast<Shuffle<T>*>(c.operand[lane]);
    int first = lane & ~(s->width - 1), end = first + s->width, from;
    if (OP == kShuffle) from = first + (s->source & (s->width - 1));
    if (OP == kShuffleUp) from = lane - s->source < first ? lane : lane - s->source;
    if (OP == kShuffleDown) from = lane + s->source >= end ? lane : lane + s->source;
    if (OP == kShuffleXor) from = (lane ^ s->source) >= end ? lane : lane ^ s->source;
    if (!(c.lanes >> from & 1))
      fail("%s: lane %d reads lane %d, which is not among the living lanes %08x of its mask", names[OP], lane, from,
           c.lanes);
    s->result = static_cast<Shuffle<T>*>(c.operand[from])->value;
  }
}

template <int OP, class T>
T shuffle(unsigned mask, T value, int source, int width, Source where) {
  static_assert(std::is_trivially_copyable<T>::value, "shuffles move plain values");
  Shuffle<T> s{value, source, width, {}};
  warp_op(mask, OP, &s, finish_shuffle<T, OP>, where);
  return s.result;
}

struct Vote {
  unsigned value, result;
};
EMU_UNSEEN inline void finish_ballot(const Collective& c) {
  unsigned r = 0;
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) r |= static_cast<Vote*>(c.operand[l])->value << l;
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) static_cast<Vote*>(c.operand[l])->result = r;
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct And {
  unsigned operator()(unsigned a, unsigned b) const { return a & b; }
};
struct Or {
  unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};
struct Xor {
  unsigned operator()(unsigned a, unsigned b) const { return a ^ b; }
};

template <class F, class T>
EMU_UNSEEN void finish_reduce(const Collective& c) {
  T r{};
  bool first = true;
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) {
      T v = *static_cast<T*>(c.operand[l]);
      r = first ? v : F()(r, v);
      first = false;
    }
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) *static_cast<T*>(c.operand[l]) = r;
}
template <class F, class T>
T reduce(unsigned mask, T value, Source where) {
  warp_op(mask, kReduce, &value, finish_reduce<F, T>, where);
  return value;
}

struct Match {
  unsigned long long value;
  unsigned result;
};
EMU_UNSEEN inline void finish_match(const Collective& c) {
  for (int l = 0; l < 32; ++l) {
    if (!(c.lanes >> l & 1)) continue;
    auto* m = static_cast<Match*>(c.operand[l]);
    m->result = 0;
    for (int k = 0; k < 32; ++k)
      if ((c.lanes >> k & 1) && static_cast<Match*>(c.operand[k])->value == m->value) m->result |= 1u << k;
  }
}

}  // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffle>(mask, v, lane, width, EMU_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffleUp>(mask, v, static_cast<int>(delta), width, EMU_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffleDown>(mask, v, static_cast<int>(delta), width, EMU_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffleXor>(mask, v, bits, width, EMU_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int p, EMU_SOURCE) {
  emu::Vote v{p != 0, 0};
  emu::warp_op(mask, emu::kBallot, &v, emu::finish_ballot, EMU_HERE);
  return v.result;
}
inline int __any_sync(unsigned mask, int p, EMU_SOURCE) { return __ballot_sync(mask, p, emu_file, emu_line) != 0; }
inline int __all_sync(unsigned mask, int p, EMU_SOURCE) { return __ballot_sync(mask, !p, emu_file, emu_line) == 0; }
inline int __reduce_add_sync(unsigned m, int v, EMU_SOURCE) { return emu::reduce<emu::Add>(m, v, EMU_HERE); }
inline unsigned __reduce_add_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Add>(m, v, EMU_HERE); }
inline int __reduce_min_sync(unsigned m, int v, EMU_SOURCE) { return emu::reduce<emu::Min>(m, v, EMU_HERE); }
inline unsigned __reduce_min_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Min>(m, v, EMU_HERE); }
inline int __reduce_max_sync(unsigned m, int v, EMU_SOURCE) { return emu::reduce<emu::Max>(m, v, EMU_HERE); }
inline unsigned __reduce_max_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Max>(m, v, EMU_HERE); }
inline unsigned __reduce_and_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::And>(m, v, EMU_HERE); }
inline unsigned __reduce_or_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Or>(m, v, EMU_HERE); }
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Xor>(m, v, EMU_HERE); }
template <class T>
unsigned __match_any_sync(unsigned mask, T value, EMU_SOURCE) {
  emu::Match m{static_cast<std::make_unsigned_t<T>>(value), 0};
  emu::warp_op(mask, emu::kMatch, &m, emu::finish_match, EMU_HERE);
  return m.result;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* predicate, EMU_SOURCE) {
  unsigned same = __match_any_sync(mask, value, emu_file, emu_line);
  *predicate = same == mask;
  return *predicate ? mask : 0;
}

// ---- tensor cores --------------------------------------------------------------------------------------------------
// d += A B for 8-bit A and B with the fragment layouts of the PTX manual, d[i] mod 2^32 as without .satfinite.
namespace emu {
struct Fragments {
  unsigned a[4], b[2];
  int d[4];
};
void multiply_16832(const Collective&, bool a_signed, bool b_signed);
void multiply_8816(const Collective&, bool a_signed, bool b_signed);

template <bool A_SIGNED, bool B_SIGNED>
void finish_16832(const Collective& c) {
  multiply_16832(c, A_SIGNED, B_SIGNED);
}
template <bool A_SIGNED, bool B_SIGNED>
void finish_8816(const Collective& c) {
  multiply_8816(c, A_SIGNED, B_SIGNED);
}
// mma.sync.aligned.m16n8k32.row.col
template <bool A_SIGNED, bool B_SIGNED>
void mma_16832(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Source where) {
  Fragments f{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}};
  warp_op(0xffffffffu, kMma, &f, finish_16832<A_SIGNED, B_SIGNED>, where);
  for (int i = 0; i < 4; ++i) d[i] = f.d[i];
}
// mma.sync.aligned.m8n8k16.row.col
template <bool A_SIGNED, bool B_SIGNED>
void mma_8816(int& d0, int& d1, unsigned a, unsigned b, Source where) {
  Fragments f{{a}, {b}, {d0, d1}};
  warp_op(0xffffffffu, kMma, &f, finish_8816<A_SIGNED, B_SIGNED>, where);
  d0 = f.d[0], d1 = f.d[1];
}
}  // namespace emu

// ---- plain intrinsics ----------------------------------------------------------------------------------------------
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline int __mulhi(int a, int b) { return static_cast<int>((int64_t{a} * b) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{hi} << 32 | lo) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>((uint64_t{hi} << 32 | lo) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t v = uint64_t{y} << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    unsigned s = selector >> (4 * i) & 0xf, b = static_cast<unsigned>(v >> (8 * (s & 7)) & 0xff);
    if (s & 8) b = b & 0x80 ? 0xff : 0;  // the byte's sign, in all bits
    r |= b << (8 * i);
  }
  return r;
}
namespace emu {
template <class A, class B>  // of the four bytes each
inline int dot4(unsigned a, unsigned b, int c) {
  unsigned r = static_cast<unsigned>(c);
  for (int i = 0; i < 32; i += 8) r += static_cast<unsigned>(static_cast<A>(a >> i) * static_cast<B>(b >> i));
  return static_cast<int>(r);
}
}  // namespace emu
inline int __dp4a(int a, int b, int c) {
  return emu::dot4<int8_t, int8_t>(static_cast<unsigned>(a), static_cast<unsigned>(b), c);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return static_cast<unsigned>(emu::dot4<uint8_t, uint8_t>(a, b, static_cast<int>(c)));
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// ---- atomics: relaxed, as CUDA's; each is a place where another thread may run -------------------------------------
namespace emu {
template <class T, class F>
T atomic(T* p, F change) {
  yield(false);
  T old = __atomic_load_n(p, __ATOMIC_RELAXED), to;
  do to = change(old);
  while (!__atomic_compare_exchange_n(p, &old, to, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  if (to != old) progress();
  return old;
}
template <class T>
using same = std::common_type_t<T>;  // not deduced: atomicAdd(unsigned*, 1) is fine, as in CUDA
}  // namespace emu
template <class T>
T atomicAdd(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return emu::Add()(old, v); });
}
template <class T>
T atomicSub(T* p, emu::same<T> v) {
  return emu::atomic(
      p, [v](T old) { return emu::Add()(old, static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(v))); });
}
template <class T>
T atomicMin(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return v < old ? v : old; });
}
template <class T>
T atomicMax(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return old < v ? v : old; });
}
template <class T>
T atomicOr(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return static_cast<T>(old | v); });
}
template <class T>
T atomicAnd(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return static_cast<T>(old & v); });
}
template <class T>
T atomicXor(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return static_cast<T>(old ^ v); });
}
template <class T>
T atomicExch(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, emu::same<T> expected, emu::same<T> v) {
  emu::yield(true);  // often the body of a spin loop
  return emu::atomic(p, [=](T old) { return old == expected ? v : old; });
}

// ---- cooperative groups: the grid only -----------------------------------------------------------------------------
namespace cooperative_groups {
struct grid_group {
  void sync(EMU_SOURCE) const { emu::grid_barrier(EMU_HERE); }
};
inline grid_group this_grid() { return {}; }
}  // namespace cooperative_groups
