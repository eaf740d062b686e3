#include "transforms/synthesis.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/interrupt.h"
#include "base/threads.h"
#include "transforms/pixels.h"

namespace ccm {
namespace {

// One row of cells to four rows of pixels. z: features [cells][48], fine: the same of a row of latents, or null.
template <class Sample>
class Row {
 public:
  Row(const PixelSink& sink, float most) : sink_(sink), most_(most) {}

  // Cells [0, count) of a tile's row; their first pixel is at (top, left).
  void put(const float* z, const float* fine, int64_t fine_step, int64_t count, int64_t top, int64_t left) {
    for (int64_t j = 0; j < count && left + j * kCells < sink_.left + sink_.width; ++j, z += kFeatures) {
      // fine: [latents][4][4][48], of which this row reads four cells a latent.
      const float* more = fine ? fine + j / kCells * fine_step + j % kCells * kFeatures : nullptr;
      cell(z, more);
      store(top, left + j * kCells);
    }
  }

 private:
  void cell(const float* z, const float* more) {
    float v[kFeatures];
    cell_values(z, more, sink_.grey, v);
    for (int k = 0; k < kFeatures; ++k) level_[k] = nearest(v[k] * most_);
  }

  void store(int64_t top, int64_t left) const {
    const Window own = seen(sink_, top, left, kCells);
    for (int64_t u = own.i0; u < own.i1; ++u) {
      auto* to = pixel<Sample>(sink_, top + u, left + own.j0);
      if (sink_.channels == 1) {
        for (int64_t v = own.j0; v < own.j1; ++v) *to++ = static_cast<Sample>(level_[kCells * u + v]);
      } else {
        const int32_t* from = level_ + kCells * u;
        for (int64_t v = own.j0; v < own.j1; ++v, to += kColours)
          for (int c = 0; c < kColours; ++c) to[c] = static_cast<Sample>(from[c * kCellPixels + v]);
      }
    }
  }

  const PixelSink& sink_;
  const float most_;
  int32_t level_[kFeatures];
};

// A 1x1 convolution to 768 channels, 16 c + s for the sub-pixel s of 4x4, with whole cells one after another instead:
// the shuffle is then a matter of where they are added.
ConvolutionWeights cells_of(const ConvolutionWeights& w) {
  const std::vector<float> from = w.all();
  std::vector<float> to(from.size());
  for (int32_t c = 0; c < kFeatures; ++c)
    for (int32_t s = 0; s < kCellPixels; ++s)
      std::copy_n(&from[(static_cast<size_t>(c) * kCellPixels + s) * w.in], w.in,
                  &to[(static_cast<size_t>(s) * kFeatures + c) * w.in]);
  return {outputs_of(std::move(to), w.inputs()), w.bias, w.out, w.in, w.kernel};
}

}  // namespace

std::vector<Tile> parts_of(const std::vector<Tile>& tiles, const Window& pixels, int64_t latent_side) {
  const Window wanted = pixels.over(latent_side);
  std::vector<Tile> parts;
  for (Tile t : tiles) {
    t.i0 = std::max(t.i0, wanted.i0);
    t.i1 = std::min(t.i1, wanted.i1);
    t.j0 = std::max(t.j0, wanted.j0);
    t.j1 = std::min(t.j1, wanted.j1);
    if (t.i0 < t.i1 && t.j0 < t.j1) parts.push_back(t);
  }
  return parts;
}

std::vector<float> gain_vector(const std::vector<float>& log_gain, int32_t qualities, int32_t quality_code) {
  const size_t channels = log_gain.size() / static_cast<size_t>(qualities);
  const double q = std::min(quality_code / 32.0, qualities - 1.0);
  const int32_t low = std::min(static_cast<int32_t>(q), std::max(qualities - 2, 0));
  const int32_t high = std::min(low + 1, qualities - 1);
  const double weight = q - low;
  std::vector<float> gain(channels);
  for (size_t c = 0; c < channels; ++c) {
    const double a = log_gain[low * channels + c], b = log_gain[high * channels + c];
    gain[c] = static_cast<float>(std::exp(a + weight * (b - a)));
  }
  return gain;
}

Synthesis::Synthesis(const WeightsFile& file, bool int16)
    : file_(&file),
      config_(file.config()),
      int16_(int16),
      coarse_(file, config_.fine ? "g_s.0.coarse" : "g_s", 0, int16) {
  const std::vector<int32_t>& blocks = config_.g_s_blocks();
  const int32_t n4 = config_.widths[0], n8 = config_.widths[1], n16 = config_.widths[2];
  coarse_.convolution(config_.coarse_channels(), n16, 3);
  coarse_.blocks(n16, blocks[2]);
  coarse_.upsampling(n16, n8);
  coarse_.blocks(n8, blocks[1]);
  coarse_.upsampling(n8, n4);
  coarse_.blocks(n4, blocks[0]);
  coarse_.convolution(n4, kFeatures, 3);
  std::vector<SpanLayer> all = coarse_.span();
  all.push_back({1, 1, 0, kCells});
  const Range needed = input_range(all, {0, kLatentSide - 1});
  margin_ = std::max(-needed.first, needed.last);
}

std::vector<std::function<void()>> Synthesis::packing() {
  std::vector<std::function<void()>> work = coarse_.packing();
  work.push_back(
      [this] { log_gain_ = file_->floats("log_inverse_gain", {config_.qualities, config_.latent_channels()}); });
  // Packed later, but what is wrong with it is an error of the file's opening.
  work.push_back([this] {
    for (int32_t reduce : {4, 8}) fitted_rows(reduce);
  });
  if (config_.fine)
    work.push_back([this] {
      constexpr int32_t kOutputs = kFeatures * kCellPixels;
      const ConvolutionWeights w =
          read_convolution(*file_, "g_s.0.fine.0", kOutputs, config_.fine_channels(), 1, false);
      fine_ = Convolution(cells_of(w), {}, int16_);
    });
  return work;
}

Window Synthesis::latents(int64_t h, int64_t w, const PixelSink& sink, bool filtered) const {
  Window all{h, 0, w, 0};
  for (const Tile& t : parts_of(plan_tiles(h, w, filtered ? filter_margin() : margin_, kTileLatents), sink.window(),
                                kLatentSide / sink.reduce)) {
    const Window cells = filtered ? filter_cells(t) : t.inside().times(kCells);
    const Window read = sink.reduce > 1 ? needs(t, reduced_way(sink.reduce)).latents
                                        : coarse_.inputs(cells, t.height(), t.width(), 0, coarse_.layers());
    all.i0 = std::min(all.i0, t.outer_i0 + read.i0);
    all.i1 = std::max(all.i1, t.outer_i0 + read.i1);
    all.j0 = std::min(all.j0, t.outer_j0 + read.j0);
    all.j1 = std::max(all.j1, t.outer_j0 + read.j1);
  }
  return all;
}

void Synthesis::run(const LatentPlane& y, int32_t quality_code, const PixelSink& sink, int threads) const {
  const std::vector<float> gain = this->gain(quality_code);
  const std::vector<Tile> tiles =
      parts_of(plan_tiles(y.height, y.width, margin_, kTileLatents), sink.window(), kLatentSide / sink.reduce);
  for (size_t k = 0; k < tiles.size(); ++k) {
    const Portion portion(static_cast<int64_t>(k), static_cast<int64_t>(tiles.size()));
    if (sink.reduce == 1)
      tile(y, gain, tiles[k], sink, threads);
    else
      reduced_tile(y, gain, tiles[k], sink, threads);
  }
}

PlanePart Synthesis::input(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const Window& at,
                           int32_t first, int32_t last) const {
  FloatPlane x(at.height(), at.width(), last - first);
  for (int64_t i = 0; i < x.height; ++i)
    for (int64_t j = 0; j < x.width; ++j) {
      const int64_t row = t.outer_i0 + at.i0 + i - y.at.i0, column = t.outer_j0 + at.j0 + j - y.at.j0;
      const float* from = y.values + (row * y.at.width() + column) * config_.latent_channels();
      float* to = x.at(i, j);
      for (int32_t c = first; c < last; ++c) to[c - first] = from[c] * gain[c];
    }
  return {std::move(x), at};
}

PlanePart Synthesis::coarse_input(const LatentPlane& y, const std::vector<float>& gain, const Tile& t,
                                  const Window& at) const {
  return input(y, gain, t, at, 0, config_.coarse_channels());
}

Synthesis::Halves Synthesis::halves(const LatentPlane& y, const std::vector<float>& gain, const Tile& t,
                                    const Window& cells, int threads) const {
  const size_t layers = coarse_.layers();
  const Window needed = coarse_.inputs(cells, t.height(), t.width(), 0, layers);
  PlanePart z = coarse_.run(coarse_input(y, gain, t, needed), cells, t.height(), t.width(), threads, 0, layers);
  if (!config_.fine) return {std::move(z), {}};
  const PlanePart fine = input(y, gain, t, cells.over(kCells), config_.coarse_channels(), config_.latent_channels());
  return {std::move(z), {fine_.run(fine.values, threads), fine.at}};
}

FloatPlane Synthesis::features(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, int threads) const {
  const Tile outer{t.outer_i0, t.outer_i1, t.outer_j0, t.outer_j1, t.outer_i0, t.outer_i1, t.outer_j0, t.outer_j1};
  Halves found = halves(y, gain, outer, outer.inside().times(kCells), threads);
  FloatPlane& z = found.coarse.values;
  if (!config_.fine) return std::move(z);
  for (int64_t i = 0; i < z.height; ++i)
    for (int64_t j = 0; j < z.width; ++j) {
      const float* more = found.fine.values.at(i / kCells, j / kCells) + (i % kCells * kCells + j % kCells) * kFeatures;
      float* to = z.at(i, j);
      for (int32_t k = 0; k < kFeatures; ++k) to[k] += more[k];
    }
  return std::move(z);
}

void Synthesis::tile(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const PixelSink& sink,
                     int threads) const {
  const Window in = t.inside();
  const Halves found = halves(y, gain, t, in.times(kCells), threads);
  parallel_for(threads, in.height(), [&](int64_t latent_row) {
    const int64_t latent = in.i0 + latent_row;
    const auto put_rows = [&](auto row) {
      for (int64_t i = latent * kCells; i < (latent + 1) * kCells; ++i) {
        const float* fine = config_.fine ? found.fine.from(latent, in.j0) + i % kCells * kCells * kFeatures : nullptr;
        row.put(found.coarse.from(i, in.j0 * kCells), fine, found.fine.values.channels, in.width() * kCells,
                (t.outer_i0 * kCells + i) * kCells, t.j0 * kLatentSide);
      }
    };
    if (sink.bits == 8)
      put_rows(Row<uint8_t>(sink, 255));
    else
      put_rows(Row<uint16_t>(sink, 65535));
  });
}

}  // namespace ccm
