// g_s on a CPU: from latents to pixels, tile by tile.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "model/weights.h"
#include "transforms/chain.h"
#include "transforms/convolution.h"

namespace ccm {

// Where pixels go: rows of `width` pixels of unsigned samples.
struct PixelSink {
  void* data;
  int64_t row_bytes;      // from one row to the next
  int64_t width, height;  // pixels; at most 16 times the latents
  int32_t channels;       // 3: RGB, 1: the mean of the three alone
  int32_t bits;           // 8 or 16 a sample
  bool grey;              // samples of a pixel are their mean; always with one channel
};

class Synthesis {
 public:
  Synthesis(const WeightsFile& file, bool int16);

  // The work of packing weights, for several threads; each piece is to be run once, before anything else.
  std::vector<std::function<void()>> packing();

  // The picture of y: float [h][w][M], what g_s reads before gains. quality_code: see packet.h.
  void run(const float* y, int64_t h, int64_t w, int32_t quality_code, const PixelSink& sink, int threads) const;

  // Latents around a tile that its values depend on.
  int64_t margin() const { return margin_; }

 private:
  void tile(const float* y, int64_t w, const std::vector<float>& gain, const Tile& t, const PixelSink& sink,
            int threads) const;

  const WeightsFile* file_;
  ModelConfig config_;
  bool int16_;
  Chain coarse_;
  Convolution fine_;  // to the 16 cells of 48 channels that a latent spans at 1/4
  std::vector<float> log_gain_;
  int64_t margin_;
};

// Gains of a quality, one for each channel: exp of the line between the levels on both sides. log_gain: [qualities][M].
std::vector<float> gain_vector(const std::vector<float>& log_gain, int32_t qualities, int32_t quality_code);

}  // namespace ccm
