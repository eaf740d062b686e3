// The emulator's own tests: every intrinsic against values worked out here, and a small pipeline of blocks into which
// faults are planted, to prove that each is seen. nvcc compiles this file too.
//
//   micro intrinsics           prints "ok"
//   micro products SEED        both tensor-core shapes against plain loops
//   micro pipeline FAULT       prints "ok", or "error: ..." where the emulator found one
//   micro speed                microseconds of an emulated product
#include "entropy/cuda/device.h"

namespace micro {
using namespace ccm;

constexpr int kThreads = 64, kBlocks = 5, kItems = 12;

enum Fault {
  kSound,
  kMissingBarrier,
  kMissingRelease,
  kMissingSyncwarp,
  kOverrun,        // of dynamic shared memory
  kResidency,      // a block waits for one that starts later
  kForeignMask,    // the caller is not in its mask
  kMixedOps,       // lanes of one mask in different collectives
  kDivergence,     // two __syncthreads instead of one
  kLostLane,       // a full mask where half a warp does not come
  kStaticOverrun,  // of static shared memory
  kMisaligned,
  kBarrierCount,  // threads disagree about a named barrier
  kGlobalOverrun,
  kEndlessVote,  // polls with collectives in between
  kFaults
};

// Block b adds its number to what block b - 1 left, item by item, behind it. out: int [kBlocks][kItems][kThreads].
__global__ void __launch_bounds__(kThreads) pipeline(int* out, int* progress, int fault) {
  CCM_DYN_SHARED(raw);
  CCM_SHARED(total, int[kThreads / 32]);
  int* stage = reinterpret_cast<int*>(raw);  // [kThreads]
  int* totals = total;
  CCM_SHARED(ticket, int);
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  // Not blockIdx.x: blocks start in any order, and the one before this one has to be running.
  if (t == 0) ticket = atomicAdd(progress + kBlocks + 1, 1);
  __syncthreads();
  const int b = ticket;
  const int from = fault == kResidency ? b + 1 : b - 1;
  for (int item = 0; item < kItems; ++item) {
    if (t == 0 && from >= 0 && from < kBlocks) {
      while (ld_relaxed(progress + from) <= item) __nanosleep(20);
      ld_acquire(progress + from);
    }
    if (fault == kEndlessVote && t < 32)
      while (!__any_sync(0xffffffffu, ld_relaxed(progress + kBlocks))) __syncwarp();
    __syncthreads();
    const int before = b > 0 && from < b ? ld_cg(out + ((b - 1) * kItems + item) * kThreads + t) : 0;
    stage[t] = before;
    if (fault == kOverrun && t == 5) stage[kThreads + item] = 1;
    if (fault == kStaticOverrun && t == 5) totals[kThreads / 32 + item] = 1;
    if (fault == kGlobalOverrun && b == kBlocks - 1 && item == kItems - 1) out[kBlocks * kItems * kThreads + t] = 1;
    if (fault == kMisaligned) reinterpret_cast<int2*>(raw + 4)->x = 1;
    if (fault != kMissingBarrier) __syncthreads();
    int v = stage[t ^ 32];  // of the other warp
    if (fault == kForeignMask && lane >= 16) __ballot_sync(0xffffu, 1);
    if (fault == kMixedOps) v = lane < 16 ? __shfl_xor_sync(0xffffffffu, v, 1) : __shfl_sync(0xffffffffu, v, 0);
    if (fault == kLostLane && lane < 16) __syncwarp(0xffffffffu);
    if (fault == kBarrierCount) bar_sync(1, warp ? kThreads : 32);
    if (fault == kDivergence) {
      if (warp)
        __syncthreads();
      else
        __syncthreads();
    }
    if (lane == 0) total[warp] = b + item;
    if (fault != kMissingSyncwarp) __syncwarp(0xffffffffu);
    v += total[warp] - item;
    bar_sync(2, kThreads);
    out[(b * kItems + item) * kThreads + (t ^ 32)] = v;
    __syncthreads();
    if (t == 0) {
      if (fault == kMissingRelease)
        st_relaxed(progress + b, item + 1);
      else
        st_release(progress + b, item + 1);
    }
  }
}

struct Results {
  int v[64];
  unsigned long long sum;
};

__global__ void intrinsics(Results* r) {
  CCM_SHARED(buffer, int[64]);
  CCM_SHARED(counter, int);
  const int t = threadIdx.x, lane = t % 32;
  const unsigned all = 0xffffffffu;
  if (t == 0) counter = 0;
  buffer[t] = 3 * t;
  __syncthreads();
  atomicAdd(&counter, buffer[63 - t]);
  const int odd = __syncthreads_count(t & 1), every = __syncthreads_and(t < 63), some = __syncthreads_or(t == 63);
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  const int sum = __reduce_add_sync(half, t), least = __reduce_min_sync(all, t - 40),
            most = __reduce_max_sync(all, t - 40);
  const unsigned bits = __reduce_or_sync(all, 1u << (t & 3)), common = __reduce_and_sync(all, 0xf0u | t);
  const unsigned parity = __reduce_xor_sync(all, static_cast<unsigned>(t));
  const int up = __shfl_up_sync(all, t, 3), down = __shfl_down_sync(all, t, 3, 8), from = __shfl_sync(all, t, 1, 16);
  const int other = __shfl_xor_sync(all, t, 5);
  const long long wide = __shfl_sync(all, 1ll << t, 33);
  const unsigned same = __match_any_sync(all, t % 3);
  int agree;
  const unsigned whole = __match_all_sync(all, t / 32, &agree);
  const int any = __any_sync(all, t == 40), none = __all_sync(all, t != 40);
  unsigned ballot = 0;
  if (t < 20) ballot = __ballot_sync(0x000fffffu, t % 3 == 0);
  bar_sync(3, 64);
  atomicMax(&r->v[30], t);
  atomicMin(&r->v[31], -t);
  atomicOr(&r->v[32], 1 << (t % 5));
  if (t == 63) {
    atomicAdd(&r->sum, 1ull << 40);
    r->v[33] = atomicExch(&r->v[34], 7);
    r->v[35] = atomicCAS(&r->v[34], 7, 9) + atomicCAS(&r->v[34], 7, 11);
    r->v[36] = atomicSub(&r->v[37], 5);
  }
  if (t == 37) {
    const int values[] = {counter, odd, every, some, sum, up, down, from, other, static_cast<int>(same)};
    for (int i = 0; i < 10; ++i) r->v[i] = values[i];
  }
  if (t == 5) {
    const int values[] = {
        static_cast<int>(wide),
        static_cast<int>(ballot),
        least,
        most,
        static_cast<int>(bits),
        static_cast<int>(common),
        static_cast<int>(parity),
        static_cast<int>(whole) + agree,
        any * 2 + none,
        dp4a_us(0x80ff7f01u, static_cast<int>(0x8002ff7fu), -7),
        __dp4a(static_cast<int>(0x80ff7f01u), static_cast<int>(0x8002ff7fu), -7),
        static_cast<int>(__byte_perm(0x33221100u, 0x77e65544u, 0xe520u)),
        __clz(0x1234) * 1000 + __ffs(0x1230) * 10 + __popc(0x1234),
        static_cast<int>(__umul64hi(0xfedcba9876543210ull, 0x123456789abcdefull) >> 32),
        static_cast<int>(__funnelshift_l(0x89abcdefu, 0x01234567u, 12)),
        static_cast<int>(__funnelshift_r(0x89abcdefu, 0x01234567u, 12)),
        __mulhi(-3, 0x40000000),
    };
    for (int i = 0; i < 17; ++i) r->v[10 + i] = values[i];
  }
}

// One warp: d of both shapes, in registers' order.
template <bool A_SIGNED, bool B_SIGNED>
__global__ void products(const unsigned* a, const unsigned* b, int* d80, int* d75, int repeats) {
  const int t = threadIdx.x;
  const unsigned x[4] = {a[t * 4], a[t * 4 + 1], a[t * 4 + 2], a[t * 4 + 3]}, y[2] = {b[t * 2], b[t * 2 + 1]};
  int p[4] = {1, -2, 3, -4}, q[4] = {1, -2, 3, -4};
  for (int i = 0; i < repeats; ++i) {
    mma_sm80<A_SIGNED, B_SIGNED>(p, x, y);
    mma_sm75<A_SIGNED, B_SIGNED>(q, x, y);
  }
  for (int i = 0; i < 4; ++i) d80[t * 4 + i] = p[i], d75[t * 4 + i] = q[i];
}
#ifndef CCM_EMU  // there is no sm_80 instruction in an sm_75 kernel: instantiate for the compile check only
template __global__ void products<false, true>(const unsigned*, const unsigned*, int*, int*, int);
template __global__ void products<true, false>(const unsigned*, const unsigned*, int*, int*, int);
#endif

// Threads that leave behind a vote change nothing for those that wake up later.
__global__ void vote_and_leave(int* stayed) {
  if (__syncthreads_and(threadIdx.x != 3)) stayed[threadIdx.x] = 1;
}

__global__ void speed(int* out, int repeats) {
  int d[4] = {};
  const unsigned a[4] = {threadIdx.x * 0x01020304u, threadIdx.x * 7, 3, 4}, b[2] = {threadIdx.x + 5, 6};
  for (int i = 0; i < repeats; ++i) mma_u8s8(d, a, b);
  out[threadIdx.x] = d[0] + d[3];
}

}  // namespace micro

#ifdef CCM_EMU
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace micro {

int report(cudaError_t e, bool right) {
  if (e)
    std::printf("error: %s\n", emu::last_error());
  else
    std::puts(right ? "ok" : "wrong values");
  return e ? 3 : right ? 0 : 1;
}

int check_intrinsics() {
  Results r{};
  r.sum = 5;
  const cudaError_t e = launch(intrinsics, dim3(1), dim3(64), 0, nullptr, false, &r);
  unsigned thirds = 0, ballot = 0, perm = 0xff552200u;
  for (int l = 0; l < 32; ++l) thirds |= unsigned{(32 + l) % 3 == 37 % 3} << l;
  for (int l = 0; l < 20; ++l) ballot |= unsigned{l % 3 == 0} << l;
  auto s8 = [](unsigned v, int i) { return int{static_cast<int8_t>(v >> (8 * i))}; };
  auto u8 = [](unsigned v, int i) { return int{static_cast<uint8_t>(v >> (8 * i))}; };
  int us = -7, ss = -7;
  for (int i = 0; i < 4; ++i) {
    us += u8(0x80ff7f01u, i) * s8(0x8002ff7fu, i);
    ss += s8(0x80ff7f01u, i) * s8(0x8002ff7fu, i);
  }
  const int sum = (32 + 47) * 8;
  const int first[] = {3 * 63 * 32, 32, 0, 1, sum, 34, 37, 33, 32 + (5 ^ 5), static_cast<int>(thirds)};
  const int second[] = {2,
                        static_cast<int>(ballot),
                        -40,
                        -9,
                        15,
                        0xf0,
                        0,
                        -1 + 1,
                        1,
                        us,
                        ss,
                        static_cast<int>(perm),
                        19 * 1000 + 5 * 10 + 5,
                        0x121fa00,
                        static_cast<int>(0x3456789au),
                        0x56789abc,
                        -1};
  bool right = true;
  auto compare = [&](int i, int wanted) {
    if (!e && r.v[i] != wanted) std::fprintf(stderr, "value %d: %d, not %d\n", i, r.v[i], wanted), right = false;
  };
  for (int i = 0; i < 10; ++i) compare(i, first[i]);
  for (int i = 0; i < 17; ++i) compare(10 + i, second[i]);
  compare(30, 63), compare(31, -63), compare(32, 31), compare(33, 0), compare(34, 9), compare(35, 16);
  compare(36, 0), compare(37, -5);
  int stayed[64] = {}, all = 0;
  const cudaError_t left = launch(vote_and_leave, dim3(1), dim3(64), 0, nullptr, false, stayed);
  for (int s : stayed) all += s;
  return report(e ? e : left, right && all == 0 && r.sum == 5 + (1ull << 40));
}

template <bool A_SIGNED, bool B_SIGNED>
bool product_is_right(std::mt19937& random) {
  uint8_t a[16][32], b[32][8];
  for (auto& row : a)
    for (auto& v : row) v = static_cast<uint8_t>(random());
  for (auto& row : b)
    for (auto& v : row) v = static_cast<uint8_t>(random());
  // Fragments as the PTX manual gives them, one byte at a time.
  std::vector<unsigned> fa(128), fb(64);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 16; ++i) {
      const int row = lane / 4 + ((i < 4 || (i >= 8 && i < 12)) ? 0 : 8),
                column = lane % 4 * 4 + i % 4 + (i < 8 ? 0 : 16);
      fa[lane * 4 + i / 4] |= unsigned{a[row][column]} << (i % 4 * 8);
    }
    for (int i = 0; i < 8; ++i) {
      const int row = lane % 4 * 4 + i % 4 + (i < 4 ? 0 : 16);
      fb[lane * 2 + i / 4] |= unsigned{b[row][lane / 4]} << (i % 4 * 8);
    }
  }
  std::vector<int> d80(128), d75(128);
  if (launch(products<A_SIGNED, B_SIGNED>, dim3(1), dim3(32), 0, nullptr, false, fa.data(), fb.data(), d80.data(),
             d75.data(), 1))
    return false;
  bool right = true;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2, start[] = {1, -2, 3, -4};
      int sum = start[i];
      for (int k = 0; k < 32; ++k)
        sum += (A_SIGNED ? static_cast<int8_t>(a[row][k]) : int{a[row][k]}) *
               (B_SIGNED ? static_cast<int8_t>(b[k][column]) : int{b[k][column]});
      right = right && sum == d80[lane * 4 + i] && sum == d75[lane * 4 + i];
    }
  return right;
}

int check_products(unsigned seed) {
  std::mt19937 random(seed);
  bool right = true;
  for (int i = 0; i < 20; ++i)
    right = right && product_is_right<false, true>(random) && product_is_right<true, false>(random) &&
            product_is_right<true, true>(random) && product_is_right<false, false>(random);
  return report(*emu::last_error() ? cudaErrorLaunchFailure : cudaSuccess, right);
}

int check_pipeline(int fault) {
  std::vector<int> progress(kBlocks + 2, 0);
  int* out = static_cast<int*>(std::malloc(sizeof(int) * kBlocks * kItems * kThreads));
  const cudaError_t e = launch(pipeline, dim3(kBlocks), dim3(kThreads), kThreads * sizeof(int), nullptr, false, out,
                               progress.data(), fault);
  bool right = true;
  for (int b = 0; b < kBlocks; ++b)
    for (int i = 0; i < kItems * kThreads; ++i) right = right && out[b * kItems * kThreads + i] == b * (b + 1) / 2;
  std::free(out);
  return report(e, right);
}

int measure() {
  std::vector<int> out(1024);
  for (int warps : {1, 8}) {
    const int repeats = 40000 / warps;
    const auto start = std::chrono::steady_clock::now();
    if (launch(speed, dim3(1), dim3(32 * warps), 0, nullptr, false, out.data(), repeats)) return 1;
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%d warps: %.3f us a product\n", warps, s * 1e6 / repeats / warps);
  }
  return 0;
}

}  // namespace micro

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int number = argc > 2 ? std::atoi(argv[2]) : 0;
  if (what == "intrinsics") return micro::check_intrinsics();
  if (what == "products") return micro::check_products(static_cast<unsigned>(number));
  if (what == "pipeline") return micro::check_pipeline(number);
  if (what == "speed") return micro::measure();
  std::fprintf(stderr, "usage: micro intrinsics | products SEED | pipeline FAULT | speed\n");
  return 2;
}
#endif
