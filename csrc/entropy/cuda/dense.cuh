// Dense convolutions, tile by tile: one block computes all output channels of kDenseRows x kDenseColumns positions.
#pragma once
#include "entropy/cuda/plane.cuh"
#include "entropy/cuda/product.cuh"
#include "entropy/cuda/tiles.h"

namespace ccm {

constexpr int kDenseNT = kDenseRows * kDenseColumns / kTileN;  // product tiles of a warp

// Position p of the tile at (top, left).
struct DensePosition {
  int32_t i, j;
  CCM_DEVICE DensePosition(int32_t top, int32_t left, int32_t p)
      : i(top + p / kDenseColumns), j(left + p % kDenseColumns) {}
  CCM_DEVICE bool inside(int32_t h, int32_t w) const { return i >= 0 && j >= 0 && i < h && j < w; }
};

// Accumulators of one m_tile.
CCM_DEVICE void dense_product(const DeviceModel& m, const DeviceConv& c, const DevicePlane& in, int32_t top,
                              int32_t left, int32_t h, int32_t w, int32_t m_tile, Accumulators<kDenseNT>& acc) {
  const int32_t lane = threadIdx.x & 31;
  const uint8_t* at[kDenseNT];
#pragma unroll
  for (int n = 0; n < kDenseNT; ++n) {
    const DensePosition p(top, left, n * kTileN + lane / 4);
    // Positions outside the plane repeat one inside; nobody looks at their results.
    at[n] = in.at(clamp(p.i, 0, h - 1), clamp(p.j, 0, w - 1));
  }
  const ChannelNumbers* const numbers = m.at<ChannelNumbers>(c.numbers) + m_tile * kTileM + lane / 4;
  start_from(numbers[0].bias, numbers[8].bias, acc);
  product(
      c.k_steps, at, m.at<uint4>(c.weights) + static_cast<int64_t>(m_tile) * c.k_steps * 32, m.at<uint32_t>(c.quads),
      [&](uint32_t q) { return quad_offset(q, in.row_stride, in.stride); }, acc);
}

// The whole block: body(m_tile) for every warp's share of the tile.
template <class Body>
CCM_DEVICE void for_each_unit(int32_t m_tiles, Body body) {
  const int32_t warps = blockDim.x / 32;
#pragma unroll 1
  for (int32_t m_tile = threadIdx.x / 32; m_tile < m_tiles; m_tile += warps) body(m_tile);
}

// relu8 or leaky8 into `out`, of which rows below `out_h` and columns below `out_w` exist.
CCM_DEVICE void dense_bytes(const DeviceModel& m, const DeviceConv& c, const DevicePlane& in, int32_t top, int32_t left,
                            int32_t h, int32_t w, const DevicePlane& out, int32_t out_h, int32_t out_w) {
  for_each_unit(c.m_tiles, [&](int32_t m_tile) {
    Accumulators<kDenseNT> acc;
    dense_product(m, c, in, top, left, h, w, m_tile, acc);
    const int32_t up = c.upsample, shift = up == 2 ? 2 : 0, zero = c.zero;  // pixel shuffle: 4 c + 2 a + b
    for_each_value(m, c, m_tile, acc, [=](int32_t channel, int32_t p, const Rescale& rescale, int32_t value) {
      const DensePosition at(top, left, p);
      if (!at.inside(h, w)) return;
      const int32_t i = at.i * up + (up == 2 ? channel >> 1 & 1 : 0), j = at.j * up + (up == 2 ? channel & 1 : 0);
      if (i < out_h && j < out_w) out.at(i, j)[channel >> shift] = rescale.byte(value, zero);
    });
  });
}

// Where the sums of all contexts of a group lie: int32 [h][w][base_pad].
struct Base {
  int32_t* data;
  int32_t w, pad;
  CCM_DEVICE int32_t* at(int32_t i, int32_t j) const { return data + (static_cast<int64_t>(i) * w + j) * pad; }
};

}  // namespace ccm
