// Integer products of one warp: kTileM output channels by NT * kTileN positions.
#pragma once
#include "ccm/fixed_point.h"
#include "cuda/device.h"
#include "cuda/model_cuda.h"

namespace ccm {

// Lane l of a warp holds, in tile n, channels l / 4 and l / 4 + 8 of positions 2 (l % 4) and 2 (l % 4) + 1 of that
// tile: acc[n][0], [1] of the first channel, [2], [3] of the second.
template <int NT>
struct Accumulators {
  int v[NT][4];
};

CCM_DEVICE unsigned load_word(const uint8_t* p) { return *reinterpret_cast<const unsigned*>(p); }

// acc += weights * input. `at[n]`: the input bytes of the position that this lane supplies to tile n, position l / 4;
// `row_stride` and `stride`: bytes between neighbouring rows and columns of the input.
template <int NT>
CCM_DEVICE void product(const DeviceModel& m, const DeviceConv& c, int32_t m_tile, const uint8_t* const (&at)[NT],
                        int32_t row_stride, int32_t stride, const uint4* weights, Accumulators<NT>& acc) {
  const int32_t lane = threadIdx.x & 31;
  const uint4* w = weights + static_cast<int64_t>(m_tile) * c.k_steps * 32 + lane;
  const uint32_t* quads = m.at<uint32_t>(c.quads) + (lane & 3);
#pragma unroll 2
  for (int32_t s = 0; s < c.k_steps; ++s) {
    const uint4 packed = w[s * 32];
    const unsigned a[4] = {packed.x, packed.y, packed.z, packed.w};
    const int32_t first = quad_offset(quads[s * 8], row_stride, stride);
    const int32_t second = quad_offset(quads[s * 8 + 4], row_stride, stride);
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      const unsigned b[2] = {load_word(at[n] + first), load_word(at[n] + second)};
      mma_s8u8(acc.v[n], a, b);
    }
  }
}

// The same where each position's inputs lie together: the 1x1 layers of a step.
template <int NT>
CCM_DEVICE void product_rows(const DeviceConv& c, int32_t m_tile, const uint8_t* const (&at)[NT], const uint4* weights,
                             Accumulators<NT>& acc) {
  const int32_t lane = threadIdx.x & 31;
  const uint4* w = weights + static_cast<int64_t>(m_tile) * c.k_steps * 32 + lane;
#pragma unroll 4
  for (int32_t s = 0; s < c.k_steps; ++s) {
    const uint4 packed = w[s * 32];
    const unsigned a[4] = {packed.x, packed.y, packed.z, packed.w};
    const int32_t first = s * kTileK + (lane & 3) * 4;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      const unsigned b[2] = {load_word(at[n] + first), load_word(at[n] + first + 16)};
      mma_s8u8(acc.v[n], a, b);
    }
  }
}

template <int NT>
CCM_DEVICE void start_from_bias(const DeviceModel& m, const DeviceConv& c, int32_t m_tile, Accumulators<NT>& acc) {
  const int32_t* bias = m.at<int32_t>(c.bias) + m_tile * kTileM + (threadIdx.x & 31) / 4;
  const int32_t low = bias[0], high = bias[8];
#pragma unroll
  for (int n = 0; n < NT; ++n) acc.v[n][0] = acc.v[n][1] = low, acc.v[n][2] = acc.v[n][3] = high;
}

// What turns accumulators of one output channel into values.
struct Rescale {
  int32_t mult, shift, below;

  CCM_DEVICE static Rescale of(const DeviceModel& m, const DeviceConv& c, int32_t channel) {
    return {m.at<int32_t>(c.mult)[channel], m.at<int32_t>(c.shift)[channel],
            c.output == kLeaky8 ? m.at<int32_t>(c.below)[channel] : 0};
  }
  CCM_DEVICE int32_t linear(int32_t acc) const { return requantize(acc, mult, shift); }
  // relu8 and leaky8, as the byte that planes hold.
  CCM_DEVICE uint8_t byte(int32_t acc, int32_t zero) const {
    return static_cast<uint8_t>(clamp(requantize(acc, acc < 0 ? below : mult, shift), -zero, 255 - zero) + zero);
  }
};

// body(channel, position in the NT tiles, accumulator) for everything that this lane holds; `rescale` is made once a
// channel.
template <int NT, class Body>
CCM_DEVICE void for_each_value(const DeviceModel& m, const DeviceConv& c, int32_t m_tile, const Accumulators<NT>& acc,
                               Body body) {
  const int32_t lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t channel = m_tile * kTileM + lane / 4 + half * 8;
    if (channel >= c.cout) continue;
    const Rescale rescale = Rescale::of(m, c, channel);
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) body(channel, n * kTileN + (lane & 3) * 2 + k, rescale, acc.v[n][half * 2 + k]);
  }
}

}  // namespace ccm
