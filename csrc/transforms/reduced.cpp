// Smaller pictures from g_s: the parts of Synthesis that make one pixel of 2x2, 4x4 or 8x8.
#include <algorithm>
#include <functional>
#include <utility>

#include "base/threads.h"
#include "transforms/pixels.h"
#include "transforms/synthesis.h"

namespace ccm {
namespace {

constexpr int32_t kKernel = 3, kFittedOutputs = 4 * kColours;
constexpr ConvolutionShape kShape{1, kKernel / 2};

// A convolution to whole cells of 4x4 pixels, whose pixels are averaged in blocks of `side` x `side`: the layer is
// linear, so the averages of its weights give the averages of its pixels.
ConvolutionWeights averaged(const ConvolutionWeights& w, int32_t side) {
  const int32_t each = kCells / side;  // in a row of the smaller cell
  const size_t taps = w.inputs();
  const std::vector<float> from = w.all();
  const float part = 1.0f / static_cast<float>(side * side);
  ConvolutionWeights to{{}, {}, kColours * each * each, w.in, w.kernel};
  std::vector<float> weight(static_cast<size_t>(to.out) * taps);
  to.bias.resize(static_cast<size_t>(to.out));
  for (int32_t k = 0; k < kFeatures; ++k) {
    const int32_t colour = k / kCellPixels, u = k / kCells % kCells, v = k % kCells;
    const auto at = static_cast<size_t>((colour * each + u / side) * each + v / side);
    for (size_t t = 0; t < taps; ++t) weight[at * taps + t] += from[static_cast<size_t>(k) * taps + t] * part;
    to.bias[at] += w.bias[static_cast<size_t>(k)] * part;
  }
  to.weight = outputs_of(std::move(weight), taps);
  return to;
}

// What a fitted convolution reads: features at 1/8, or coarse latents.
int32_t fitted_channels(const ModelConfig& config, int32_t reduce) {
  return reduce == 4 ? config.widths[1] : config.coarse_channels();
}

// Means of 2x2 positions. A part begins at even ones.
PlanePart halved(const PlanePart& part) {
  const FloatPlane& x = part.values;
  FloatPlane to(x.height / 2, x.width / 2, x.channels);
  for (int64_t i = 0; i < to.height; ++i)
    for (int64_t j = 0; j < to.width; ++j) {
      const float *a = x.at(2 * i, 2 * j), *b = x.at(2 * i + 1, 2 * j);
      float* out = to.at(i, j);
      for (int32_t c = 0; c < x.channels; ++c)
        out[c] = ((a[c] + a[c + x.channels]) + (b[c] + b[c + x.channels])) * 0.25f;
    }
  const int64_t top = part.at.i0 / 2, left = part.at.j0 / 2, bottom = top + to.height, right = left + to.width;
  return {std::move(to), {top, bottom, left, right}};
}

// A cell of side x side pixels, [colour][row][column], to its place at (top, left).
template <class Sample>
void store(const PixelSink& sink, float most, const float* z, int64_t side, int64_t top, int64_t left) {
  const Window own = seen(sink, top, left, side);
  for (int64_t u = own.i0; u < own.i1; ++u) {
    auto* to = pixel<Sample>(sink, top + u, left + own.j0);
    for (int64_t v = own.j0; v < own.j1; ++v, to += sink.channels) {
      float colour[kColours];
      for (int64_t c = 0; c < kColours; ++c) colour[c] = unit(z[(c * side + u) * side + v] * 0.25f + 0.5f);
      if (sink.grey) std::fill_n(colour, kColours, (colour[0] + colour[1] + colour[2]) / 3);
      for (int32_t c = 0; c < sink.channels; ++c) to[c] = static_cast<Sample>(nearest(colour[c] * most));
    }
  }
}

}  // namespace

const Synthesis::Reduced& Synthesis::reduced() const {
  const std::lock_guard<std::mutex> lock(reduced_mutex_);
  if (!reduced_) {
    const ConvolutionWeights w = read_convolution(*file_, coarse_.last_name(), kFeatures, config_.widths[0], kKernel);
    reduced_ = Reduced{Convolution(averaged(w, 2), kShape, int16_), Convolution(averaged(w, 4), kShape, int16_),
                       fitted(4), fitted(8)};
  }
  return *reduced_;
}

// Of each output the weights and the bias; none where the file has none.
std::vector<float> Synthesis::fitted_rows(int32_t reduce) const {
  return file_->reduced(reduce, kFittedOutputs, int64_t{fitted_channels(config_, reduce)} * kKernel * kKernel + 1);
}

std::optional<Convolution> Synthesis::fitted(int32_t reduce) const {
  const std::vector<float> rows = fitted_rows(reduce);
  if (rows.empty()) return std::nullopt;
  ConvolutionWeights w{{}, {}, kFittedOutputs, fitted_channels(config_, reduce), kKernel};
  const auto inputs = static_cast<int64_t>(w.inputs());
  std::vector<float> weight;
  for (auto row = rows.begin(); row != rows.end(); row += inputs + 1) {
    weight.insert(weight.end(), row, row + inputs);
    w.bias.push_back(row[inputs]);
  }
  w.weight = outputs_of(std::move(weight), w.inputs());
  return Convolution(std::move(w), kShape, int16_);
}

Synthesis::Way Synthesis::reduced_way(int32_t reduce) const {
  const Reduced& last = reduced();
  if (reduce == 8 && last.fitted_eighth) return {0, &*last.fitted_eighth, 1};
  if (reduce == 4 && last.fitted_quarter) {
    const std::vector<int32_t>& blocks = config_.g_s_blocks();
    return {static_cast<size_t>(2 + blocks[2] + blocks[1]), &*last.fitted_quarter, 2};
  }
  return {coarse_.layers() - 1, reduce == 2 ? &last.half : &last.quarter, kCells};
}

Synthesis::Needs Synthesis::needs(const Tile& t, const Way& way) const {
  const int64_t height = t.height(), width = t.width();
  const Window features = inputs_of(t.inside().times(way.scale), kKernel, height * way.scale, width * way.scale);
  return {features, coarse_.inputs(features, height, width, 0, way.layers)};
}

void Synthesis::reduced_tile(const LatentPlane& y, const std::vector<float>& gain, const Tile& t, const PixelSink& sink,
                             int threads) const {
  const Way way = reduced_way(sink.reduce);
  const Needs needed = needs(t, way);
  PlanePart z = coarse_.run(coarse_input(y, gain, t, needed.latents), needed.features, t.height(), t.width(), threads,
                            0, way.layers);
  z.values = way.last->run(z.values, threads);
  // Without a fitted layer an eighth is half of a quarter. Cells of pixels are [colour][row][column].
  const bool halves = sink.reduce == 8 && way.scale > 1;
  if (halves) z = halved(z);
  const int64_t cells = halves ? way.scale / 2 : way.scale, side = kLatentSide / sink.reduce / cells;
  const Window in = t.inside().times(cells);
  parallel_for(threads, in.height(), [&](int64_t row) {
    for (int64_t j = in.j0; j < in.j1; ++j) {
      const float* from = z.from(in.i0 + row, j);
      const int64_t top = (t.outer_i0 * cells + in.i0 + row) * side, left = (t.outer_j0 * cells + j) * side;
      if (sink.bits == 8)
        store<uint8_t>(sink, 255, from, side, top, left);
      else
        store<uint16_t>(sink, 65535, from, side, top, left);
    }
  });
}

}  // namespace ccm
