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

// Gains of a quality, one for each channel: exp of the line between the levels on both sides. log_gain: [qualities][M].
std::vector<float> gain_vector(const std::vector<float>& log_gain, int32_t qualities, int32_t quality_code);

class Synthesis {
 public:
  Synthesis(const WeightsFile& file, bool int16);

  // The work of packing weights, for several threads; each piece is to be run once, before anything else.
  std::vector<std::function<void()>> packing();

  // The picture of y: float [h][w][M], what g_s reads before gains. quality_code: see packet.h.
  void run(const float* y, int64_t h, int64_t w, int32_t quality_code, const PixelSink& sink, int threads) const;

  // The features of a tile's outer rectangle, [4 rows][4 columns][48]: cells of 4x4 pixels, channel 16 c + 4 u + v for
  // colour c at row u and column v; a pixel's value is a quarter of it, plus 1/2. y and gain as the quality's.
  FloatPlane features(const float* y, int64_t w, const std::vector<float>& gain, const Tile& t, int threads) const;

  // Gains of a quality, one for each channel.
  std::vector<float> gain(int32_t quality_code) const {
    return gain_vector(log_gain_, config_.qualities, quality_code);
  }

  // Latents around a tile that its values depend on.
  int64_t margin() const { return margin_; }

 private:
  // What the coarse channels and the fine ones give; the latter [rows][columns][16 cells of 48].
  struct Halves {
    FloatPlane coarse, fine;
  };
  Halves halves(const float* y, int64_t w, const std::vector<float>& gain, const Tile& t, int threads) const;
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

}  // namespace ccm
