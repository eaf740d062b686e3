// g_a and h_a on a CPU: from pixels to latents.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "model/weights.h"
#include "transforms/chain.h"
#include "transforms/convolution.h"

namespace ccm {

// Pixels as a caller has them: rows of `width` pixels of unsigned samples.
struct PixelSource {
  const void* data;
  int64_t row_bytes;  // from one row to the next
  int64_t width, height;
  int32_t channels;  // 3: RGB, 1: grey
  int32_t bits;      // 8 or 16 a sample
};

class Analysis {
 public:
  Analysis(const WeightsFile& file, bool int16);

  // The work of packing weights, for several threads; each piece is to be run once, before anything else.
  std::vector<std::function<void()>> packing();

  // y [h][w][M], not rounded and without gains, of a picture; its edges are repeated where h and w reach beyond it.
  FloatPlane run(const PixelSource& pixels, int64_t h, int64_t w, int threads) const;

  // The same of pixels as cells of 4x4: [4 h][4 w][48], channel 16 c + 4 u + v for colour c at row u and column v, in
  // units of g_a: (value - 1/2) * 4.
  FloatPlane run(FloatPlane cells, int threads) const;

  // z [ceil(h / 4)][ceil(w / 4)][N], not rounded, of y with its gains.
  FloatPlane hyper(const FloatPlane& y, int threads) const;

  // Latents around a tile that its values depend on.
  int64_t margin() const { return margin_; }

 private:
  const WeightsFile* file_;
  ModelConfig config_;
  bool int16_;
  Chain first_, coarse_, hyper_;
  size_t deep_layers_ = 0;  // layers of coarse_ before the features that deep_ reads
  Convolution fine_, deep_;
  int64_t margin_;
};

}  // namespace ccm
