#include "transforms/analysis.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/interrupt.h"
#include "base/threads.h"

namespace ccm {
namespace {

constexpr int64_t kCells = 4, kLatentCells = 4;
constexpr int32_t kColours = 3, kPixels = kCells * kCells, kFeatures = kColours * kPixels;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Cells [rows][columns] of a picture from the pixel (top, left) on.
template <class Sample>
FloatPlane cells_of(const PixelSource& p, int64_t top, int64_t left, int64_t rows, int64_t columns, int threads) {
  FloatPlane to(rows, columns, kFeatures);
  const auto scale = static_cast<float>((1 << p.bits) - 1);
  parallel_for(threads, rows, [&](int64_t i) {
    for (int64_t u = 0; u < kCells; ++u) {
      const int64_t y = std::min(top + i * kCells + u, p.height - 1);
      const auto* row = reinterpret_cast<const Sample*>(static_cast<const char*>(p.data) + y * p.row_bytes);
      for (int64_t j = 0; j < columns; ++j) {
        float* cell = to.at(i, j) + u * kCells;
        for (int64_t v = 0; v < kCells; ++v) {
          const Sample* pixel = row + std::min(left + j * kCells + v, p.width - 1) * p.channels;
          for (int32_t c = 0; c < kColours; ++c)
            cell[c * kPixels + v] = (static_cast<float>(pixel[p.channels == 1 ? 0 : c]) / scale - 0.5f) * 4.0f;
        }
      }
    }
  });
  return to;
}

std::string at(const std::string& prefix, int32_t index) { return prefix + "." + std::to_string(index); }

}  // namespace

Analysis::Analysis(const WeightsFile& file, bool int16)
    : file_(&file),
      config_(file.config()),
      int16_(int16),
      first_(file, "g_a", 1, int16),
      coarse_(file, config_.fine ? at("g_a", 2 + config_.blocks[0]) + ".coarse" : "g_a",
              config_.fine ? 0 : 2 + config_.blocks[0], int16),
      hyper_(file, "h_a", 0, int16) {
  const int32_t n4 = config_.widths[0], n8 = config_.widths[1], n16 = config_.widths[2];
  first_.convolution(kFeatures, n4, 3);
  first_.blocks(n4, config_.blocks[0]);
  coarse_.convolution(n4, n8, 3, 2);
  coarse_.blocks(n8, config_.blocks[1]);
  if (config_.fine_deep) deep_layers_ = coarse_.layers();
  coarse_.convolution(n8, n16, 3, 2);
  coarse_.blocks(n16, config_.blocks[2]);
  coarse_.convolution(n16, config_.coarse_channels(), 3);
  constexpr float kSlope = 0.01f;
  const int32_t p = config_.psi_channels;
  hyper_.convolution(config_.coarse_channels(), p, 3);
  hyper_.leaky(kSlope);
  hyper_.convolution(p, p, 5, 2);
  hyper_.leaky(kSlope);
  hyper_.convolution(p, config_.hyper_channels, 5, 2);

  std::vector<SpanLayer> all{{1, 1, 0, 1, kCells}};
  all.insert(all.end(), first_.span().begin(), first_.span().end());
  all.insert(all.end(), coarse_.span().begin(), coarse_.span().end());
  const Range needed = input_range(all, {0, 0});
  constexpr int64_t kLatent = kCells * kLatentCells;
  margin_ = std::max(-floor_div(needed.first, kLatent), floor_div(needed.last, kLatent));
}

std::vector<std::function<void()>> Analysis::packing() {
  std::vector<std::function<void()>> work = first_.packing();
  for (Chain* chain : {&coarse_, &hyper_})
    for (auto& piece : chain->packing()) work.push_back(std::move(piece));
  if (!config_.fine) return work;
  const std::string split = at("g_a", 2 + config_.blocks[0]);
  work.push_back([this, split] {
    fine_ = Convolution(read_convolution(*file_, split + ".fine", config_.fine_channels(), config_.widths[0], 4),
                        {4, 0}, int16_);
  });
  if (config_.fine_deep)
    work.push_back([this, split] {
      deep_ =
          Convolution(read_convolution(*file_, split + ".deep", config_.fine_channels(), config_.widths[1], 2, false),
                      {2, 0}, int16_);
    });
  return work;
}

FloatPlane Analysis::run(FloatPlane cells, int threads) const {
  FloatPlane x = first_.run(std::move(cells), threads);
  if (!config_.fine) return coarse_.run(std::move(x), threads);
  FloatPlane fine = fine_.run(x, threads);
  x = coarse_.run(std::move(x), threads, 0, deep_layers_);
  if (config_.fine_deep) fine = deep_.run(x, std::move(fine), threads);
  const FloatPlane coarse = coarse_.run(std::move(x), threads, deep_layers_);
  FloatPlane y(coarse.height, coarse.width, coarse.channels + fine.channels);
  for (int64_t k = 0; k < y.height * y.width; ++k) {
    float* to = y.at(0, k);
    std::copy_n(coarse.at(0, k), coarse.channels, to);
    std::copy_n(fine.at(0, k), fine.channels, to + coarse.channels);
  }
  return y;
}

FloatPlane Analysis::run(const PixelSource& pixels, int64_t h, int64_t w, int threads) const {
  const auto of_tile = [&](const Tile& t) {
    constexpr int64_t kSide = kCells * kLatentCells;
    const int64_t top = t.outer_i0 * kSide, left = t.outer_j0 * kSide;
    const int64_t rows = (t.outer_i1 - t.outer_i0) * kLatentCells, columns = (t.outer_j1 - t.outer_j0) * kLatentCells;
    return run(pixels.bits == 8 ? cells_of<uint8_t>(pixels, top, left, rows, columns, threads)
                                : cells_of<uint16_t>(pixels, top, left, rows, columns, threads),
               threads);
  };
  const std::vector<Tile> tiles = plan_tiles(h, w, margin_, kTileLatents);
  if (tiles.size() == 1) return of_tile(tiles[0]);
  FloatPlane y(h, w, config_.latent_channels());
  for (size_t k = 0; k < tiles.size(); ++k) {
    const Portion portion(static_cast<int64_t>(k), static_cast<int64_t>(tiles.size()));
    const Tile& t = tiles[k];
    const FloatPlane part = of_tile(t);
    for (int64_t i = t.i0; i < t.i1; ++i)
      std::copy_n(part.at(i - t.outer_i0, t.j0 - t.outer_j0), (t.j1 - t.j0) * y.channels, y.at(i, t.j0));
  }
  return y;
}

FloatPlane Analysis::hyper(const FloatPlane& y, int threads) const {
  constexpr int64_t kHyper = 4;
  const int32_t coarse = config_.coarse_channels();
  FloatPlane x((y.height + kHyper - 1) / kHyper * kHyper, (y.width + kHyper - 1) / kHyper * kHyper, coarse);
  for (int64_t i = 0; i < x.height; ++i)
    for (int64_t j = 0; j < x.width; ++j)
      std::copy_n(y.at(std::min(i, y.height - 1), std::min(j, y.width - 1)), coarse, x.at(i, j));
  return hyper_.run(std::move(x), threads);
}

}  // namespace ccm
