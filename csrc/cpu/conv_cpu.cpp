#include "cpu/conv_cpu.h"

#include <algorithm>
#include <vector>

namespace ccm {
namespace {

// Runs the products of tiles of positions; after(i, j, count, acc) gets count x n_pad accumulators of columns j...
template <class After>
void conv_tiles(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first, int32_t last,
                int32_t width, After after) {
  const int32_t r = d.kernel / 2, taps = d.kernel * d.kernel;
  int32_t offsets[kMaxTaps];
  for (int32_t t = 0; t < taps; ++t) offsets[t] = in.offset(t / d.kernel - r, t % d.kernel - r);
  const int32_t* inits[kTile];
  std::fill(inits, inits + kTile, m.at<int32_t>(d.bias));
  std::vector<int32_t> acc(static_cast<size_t>(kTile) * d.n_pad);
  for (int32_t i = first; i < last; ++i) {
    for (int32_t j = 0; j < width; j += kTile) {
      const int32_t count = std::min(kTile, width - j);
      const void* a[kTile];
      for (int32_t p = 0; p < count; ++p) a[p] = in.at(i, j + p);
      k.gemm({a, offsets, m.at<uint8_t>(d.weights), inits, acc.data(), d.n_pad, count, taps, d.cin_pad, d.n_pad});
      after(i, j, count, acc.data());
    }
  }
}

}  // namespace

void conv_byte_rows(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first,
                    int32_t last, int32_t width, Plane& out) {
  const int32_t *mult = m.at<int32_t>(d.mult), *shift = m.at<int32_t>(d.shift), element = k.element_bytes;
  std::vector<uint8_t> tile(static_cast<size_t>(kTile) * d.n_pad * element);
  conv_tiles(m, k, d, in, first, last, width, [&](int32_t i, int32_t j, int32_t count, const int32_t* acc) {
    const RequantizeArgs block{acc, d.n_pad, mult, shift, d.n_pad, count, d.n_pad};
    if (d.output == kLeaky8)
      k.leaky8(block, m.at<int32_t>(d.below), d.zero, tile.data());
    else
      k.relu8(block, tile.data());
    for (int32_t p = 0; p < count; ++p) {
      const uint8_t* from = tile.data() + static_cast<int64_t>(p) * d.n_pad * element;
      if (d.upsample == 1) {
        std::memcpy(out.at(i, j + p), from, static_cast<size_t>(d.cout) * element);
        continue;
      }
      for (int32_t s = 0; s < 4; ++s) {  // sub-pixel (s / 2, s % 2) takes every fourth channel
        uint8_t* to = out.at(2 * i + s / 2, 2 * (j + p) + s % 2);
        if (element == 2)
          for (int32_t c = 0; c < d.cout / 4; ++c) std::memcpy(to + 2 * c, from + 2 * (4 * c + s), 2);
        else
          for (int32_t c = 0; c < d.cout / 4; ++c) to[c] = from[4 * c + s];
      }
    }
  });
}

void conv_accumulate_rows(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first,
                          int32_t last, int32_t width, int32_t* base) {
  const int32_t *mult = m.at<int32_t>(d.mult), *shift = m.at<int32_t>(d.shift);
  conv_tiles(m, k, d, in, first, last, width, [&](int32_t i, int32_t j, int32_t count, const int32_t* acc) {
    k.accumulate({acc, d.n_pad, mult, shift, d.n_pad, count, d.n_pad},
                 base + (static_cast<int64_t>(i) * width + j) * d.n_pad);
  });
}

}  // namespace ccm
