// Integer products of one warp: kTileM output channels by NT * kTileN positions.
#pragma once
#include "entropy/cuda/device.h"
#include "entropy/cuda/model_cuda.h"
#include "format/fixed_point.h"

namespace ccm {

// Lane l of a warp holds, in tile n, channels l / 4 and l / 4 + 8 of positions 2 (l % 4) and 2 (l % 4) + 1 of that
// tile: acc[n][0], [1] of the first channel, [2], [3] of the second.
template <int NT>
struct Accumulators {
  int v[NT][4];
};

// n / d, given reciprocal(d). (Loops whose stride the compiler does not know are kept from being unrolled, `unroll 1`,
// for the same reason: it would divide to count their turns.)
CCM_DEVICE uint32_t quotient(uint32_t n, uint64_t reciprocal_of_d) {
  return reciprocal_of_d ? static_cast<uint32_t>(__umul64hi(n, reciprocal_of_d)) : n;
}

CCM_DEVICE unsigned load_word(const uint8_t* p) { return *reinterpret_cast<const unsigned*>(p); }

// What one product of kTileK takes.
template <int NT>
struct Fragments {
  unsigned a[4], b[NT][2];

  CCM_DEVICE void load(const uint4* weights, const uint8_t* const (&at)[NT], int32_t first, int32_t second) {
    const uint4 packed = *weights;
    a[0] = packed.x, a[1] = packed.y, a[2] = packed.z, a[3] = packed.w;
#pragma unroll
    for (int n = 0; n < NT; ++n) b[n][0] = load_word(at[n] + first), b[n][1] = load_word(at[n] + second);
  }
  CCM_DEVICE void multiply(Accumulators<NT>& acc) const {
#pragma unroll
    for (int n = 0; n < NT; ++n) mma_s8u8(acc.v[n], a, b[n]);
  }
};

// acc += weights * input, in `steps` products; load(fragments, s) fetches what product s takes. Loads run ahead of the
// products by two: a warp executes in order, and each wait would be the cache's whole latency. Three sets of fragments
// change places: a copy from one to the other would wait for what has just been loaded.
template <int NT, class Load>
CCM_DEVICE void products(int32_t steps, Load load, Accumulators<NT>& acc) {
  Fragments<NT> f[3];
  load(f[0], 0);
  if (steps > 1) load(f[1], 1);
  int32_t s = 2;
#pragma unroll 1
  for (; s + 2 < steps; s += 3) {
    load(f[2], s);
    f[0].multiply(acc);
    load(f[0], s + 1);
    f[1].multiply(acc);
    load(f[1], s + 2);
    f[2].multiply(acc);
  }
  if (s < steps) load(f[2], s);
  f[0].multiply(acc);
  if (s + 1 < steps) load(f[0], s + 1);
  if (steps > 1) f[1].multiply(acc);
  if (s < steps) f[2].multiply(acc);
  if (s + 1 < steps) f[0].multiply(acc);
}

// `steps` products of a convolution. `at[n]`: the input bytes of the position that this lane supplies to tile n,
// position l / 4; `weights`: of the first product and this tile of channels; `places`: of its quads, which are loaded
// two products ahead; offset(place): bytes from a position to there.
template <int NT, class Offset>
CCM_DEVICE void product(int32_t steps, const uint8_t* const (&at)[NT], const uint4* weights, const uint32_t* places,
                        Offset offset, Accumulators<NT>& acc) {
  const int32_t lane = threadIdx.x & 31;
  if (steps <= 0) return;  // no spatial context, or all of it is done
  const uint4* const w = weights + lane;
  const uint32_t* const quads = places + (lane & 3);
  uint32_t now[2] = {quads[0], quads[4]}, next[2] = {quads[8], quads[12]};
  const auto load = [&](Fragments<NT>& f, int32_t s) {
    f.load(w + s * 32, at, offset(now[0]), offset(now[1]));
    now[0] = next[0], now[1] = next[1];
    next[0] = quads[s * 8 + 16], next[1] = quads[s * 8 + 20];  // kMoreQuads lie behind the last
  };
  products(steps, load, acc);
}

// The same where each position's inputs lie together: the 1x1 layers of a step.
template <int NT>
CCM_DEVICE void product_rows(int32_t steps, const uint8_t* const (&at)[NT], const uint4* weights,
                             Accumulators<NT>& acc) {
  const int32_t lane = threadIdx.x & 31, first = (lane & 3) * 4;
  const uint4* const w = weights + lane;
  const auto load = [&](Fragments<NT>& f, int32_t s) {
    f.load(w + s * 32, at, s * kTileK + first, s * kTileK + first + 16);
  };
  products(steps, load, acc);
}

// `low`, `high`: of the channels that this lane holds.
template <int NT>
CCM_DEVICE void start_from(int32_t low, int32_t high, Accumulators<NT>& acc) {
#pragma unroll
  for (int n = 0; n < NT; ++n) acc.v[n][0] = acc.v[n][1] = low, acc.v[n][2] = acc.v[n][3] = high;
}

// What turns accumulators of one output channel into values.
struct Rescale {
  int32_t mult, shift, below;

  CCM_DEVICE static Rescale of(const ChannelNumbers& n) { return {n.mult, n.shift, n.below}; }
  CCM_DEVICE int32_t linear(int32_t acc) const { return requantize(acc, mult, shift); }
  // relu8 and leaky8, as the byte that planes hold.
  CCM_DEVICE uint8_t byte(int32_t acc, int32_t zero) const {
    return static_cast<uint8_t>(max(-zero, min(requantize(acc, acc < 0 ? below : mult, shift), 255 - zero)) + zero);
  }
};

// body(channel, position in the NT tiles, rescale, accumulator) for everything that this lane holds. Bodies store
// bytes, which may alias anything: what they read should be in locals.
template <int NT, class Body>
CCM_DEVICE void for_each_value(const DeviceModel& m, const DeviceConv& c, int32_t m_tile, const Accumulators<NT>& acc,
                               Body body) {
  const int32_t lane = threadIdx.x & 31, first = m_tile * kTileM + lane / 4, channels = c.cout;
  const ChannelNumbers* const numbers = m.at<ChannelNumbers>(c.numbers) + first;  // padded to whole tiles
  const Rescale rescale[2] = {Rescale::of(numbers[0]), Rescale::of(numbers[8])};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (first + half * 8 >= channels) continue;
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k)
        body(first + half * 8, n * kTileN + (lane & 3) * 2 + k, rescale[half], acc.v[n][half * 2 + k]);
  }
}

}  // namespace ccm
