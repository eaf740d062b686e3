// g_s on a CPU: from latents to pixels, tile by tile.
#pragma once
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "model/weights.h"
#include "transforms/chain.h"
#include "transforms/convolution.h"
#include "transforms/picture_filter.h"

namespace ccm {

// Where pixels go: rows of `width` pixels of unsigned samples. They are a picture, or a rectangle of one.
struct PixelSink {
  void* data;
  int64_t row_bytes;          // from one row to the next
  int64_t width, height;      // pixels; at most 16 / reduce times the latents
  int32_t channels;           // 3: RGB, 1: the mean of the three alone
  int32_t bits;               // 8 or 16 a sample
  bool grey;                  // samples of a pixel are their mean; always with one channel
  int32_t reduce = 1;         // each pixel is one of reduce x reduce of the picture: 1, 2, 4 or 8
  int64_t left = 0, top = 0;  // the first pixel's place in the picture, which is reduced likewise

  Window window() const { return {top, top + height, left, left + width}; }
};

// Latents as g_s reads them before gains: of a plane of height x width what lies in a window, [rows][columns][M].
struct LatentPlane {
  const float* values;
  int64_t height, width;
  Window at;
};

// Gains of a quality, one for each channel: exp of the line between the levels on both sides. log_gain: [qualities][M].
std::vector<float> gain_vector(const std::vector<float>& log_gain, int32_t qualities, int32_t quality_code);

// What of tiles is seen: those that have some of the pixels, their inner rectangles cut to the latents of these, each
// of which spans latent_side pixels in each direction.
std::vector<Tile> parts_of(const std::vector<Tile>& tiles, const Window& pixels, int64_t latent_side);

class Synthesis {
 public:
  Synthesis(const WeightsFile& file, bool int16);

  // The work of packing weights, for several threads; each piece is to be run once, before anything else.
  std::vector<std::function<void()>> packing();

  // What of a plane of h x w latents run() reads, for all or a rectangle of the picture.
  Window latents(int64_t h, int64_t w, const PixelSink& sink, bool filtered = false) const;

  // The picture of y, which has latents(). quality_code: see packet.h. Reduced pictures are
  // the means of the pixels that coarse channels alone give: by 2 exactly, by 4 and 8 what a convolution that was
  // fitted to them makes of features at 1/8 or of latents, where the weights file has it. Of a rectangle only what it
  // depends on is computed, and its pixels are those of the whole picture.
  void run(const LatentPlane& y, int32_t quality_code, const PixelSink& sink, int threads) const;

  // The same through a filter, for pixels of a picture of height x width that is not reduced.
  void run_filtered(const LatentPlane& y, int32_t quality_code, const PixelSink& sink, int64_t height, int64_t width,
                    const PictureFilter& filter, int threads) const;

  // Calls use(planes) for one tile after another of some pixels of a picture of height x width, with what of them is
  // the tile's as filters read it. y has latents() of them, filtered.
  void each_tile(const LatentPlane& y, int32_t quality_code, const Window& pixels, int64_t height, int64_t width,
                 bool grey, int threads, const std::function<void(const FilterPlanes&)>& use) const;

  // The features of a tile's outer rectangle, [4 rows][4 columns][48]: cells of 4x4 pixels, channel 16 c + 4 u + v for
  // colour c at row u and column v; a pixel's value is a quarter of it, plus 1/2. y: all of it; gain: the quality's.
  FloatPlane features(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, int threads) const;

  // Gains of a quality, one for each channel.
  std::vector<float> gain(int32_t quality_code) const {
    return gain_vector(log_gain_, config_.qualities, quality_code);
  }

  // Latents around a tile that its values depend on.
  int64_t margin() const { return margin_; }

 private:
  // What the coarse channels and the fine ones give of some cells at least, in cells and latents of a tile's outer
  // rectangle; the fine ones [rows][columns][16 cells of 48].
  struct Halves {
    PlanePart coarse, fine;
  };
  // Channels [first, last) of y in a window of a tile's outer rectangle, times their gains.
  PlanePart input(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const Window& at, int32_t first,
                  int32_t last) const;
  PlanePart coarse_input(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const Window& at) const;
  // Of the cells of a tile's outer rectangle that are wanted.
  Halves halves(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const Window& cells,
                int threads) const;
  // Of a tile, for pixels of its inner rectangle in a picture of height x width.
  FilterPlanes planes(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const Window& pixels,
                      int64_t height, int64_t width, bool grey, int threads) const;
  void tile(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const PixelSink& sink,
            int threads) const;
  // Latents around a tile that filtered pixels depend on.
  int64_t filter_margin() const { return margin_ + 1; }
  // Cells of a tile's outer rectangle that the filter reads for its inner one.
  static Window filter_cells(const Tile& t);
  struct Reduced {
    Convolution half, quarter;  // the last layer of coarse_, its pixels averaged by 2x2 and 4x4
    // From features at 1/8 to 2x2 pixels of 4x4 each, and from coarse latents to 2x2 pixels of 8x8 each.
    std::optional<Convolution> fitted_quarter, fitted_eighth;
  };
  // Packed for the first picture that is reduced: whole ones need none of it.
  const Reduced& reduced() const;
  std::vector<float> fitted_rows(int32_t reduce) const;
  std::optional<Convolution> fitted(int32_t reduce) const;
  // How a reduced picture is made: by these layers of coarse_, then this one, which gives scale x scale cells a latent.
  struct Way {
    size_t layers;
    const Convolution* last;
    int64_t scale;
  };
  Way reduced_way(int32_t reduce) const;
  // What coarse_ has to give the last layer, and what it reads for that, in positions of a tile's outer rectangle.
  struct Needs {
    Window features, latents;
  };
  Needs needs(const Tile& t, const Way& way) const;
  void reduced_tile(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const PixelSink& sink,
                    int threads) const;

  const WeightsFile* file_;
  ModelConfig config_;
  bool int16_;
  Chain coarse_;
  Convolution fine_;  // to the 16 cells of 48 channels that a latent spans at 1/4
  mutable std::mutex reduced_mutex_;
  mutable std::optional<Reduced> reduced_;
  std::vector<float> log_gain_;
  int64_t margin_;
};

}  // namespace ccm
