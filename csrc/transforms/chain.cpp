#include "transforms/chain.h"

#include <algorithm>
#include <optional>

#include "base/interrupt.h"

namespace ccm {

ConvolutionWeights read_convolution(const WeightsFile& file, const std::string& name, int32_t out, int32_t in,
                                    int32_t kernel, bool biased) {
  ConvolutionWeights w{{}, {}, out, in, kernel};
  w.weight = [inputs = w.inputs(), halves = file.halves(name + ".weight", {out, in, kernel, kernel})](
                 int64_t first, int32_t count, float* scratch) {
    halves.read(static_cast<size_t>(first) * inputs, static_cast<size_t>(count) * inputs, scratch);
    return scratch;
  };
  if (biased) w.bias = file.floats(name + ".bias", {out});
  return w;
}

void Chain::add(std::vector<Piece> pieces) {
  for (const Piece& p : pieces) {
    span_.push_back({p.kernel, p.shape.stride, p.shape.padding});
    if (p.shape.shuffle > 1) span_.push_back({1, 1, 0, p.shape.shuffle});
  }
  layers_.push_back({std::move(pieces), {}});
}

void Chain::convolution(int32_t in, int32_t out, int32_t kernel, int32_t stride) {
  add({{next_name(), in, out, kernel, {stride, kernel / 2}}});
}

void Chain::upsampling(int32_t in, int32_t out) {
  add({{next_name(), in, 4 * out, 3, {1, 1, 2}}});
  ++index_;
}

void Chain::blocks(int32_t channels, int32_t count) {
  for (int32_t k = 0; k < count; ++k) {
    const std::string name = next_name();
    add({{name + ".conv1", channels, channels, 3, {1, 1, 1, kBlockSlope}},
         {name + ".conv2", channels, channels, 3, {1, 1}}});
  }
}

void Chain::leaky(float slope) {
  layers_.back().pieces.back().shape.slope = slope;
  ++index_;
}

std::vector<std::function<void()>> Chain::packing() {
  std::vector<std::function<void()>> work;
  for (Layer& layer : layers_) {
    layer.packed.resize(layer.pieces.size());
    for (size_t k = 0; k < layer.pieces.size(); ++k)
      work.push_back([this, &layer, k] {
        const Piece& p = layer.pieces[k];
        layer.packed[k] = Convolution(read_convolution(*file_, p.name, p.out, p.in, p.kernel), p.shape, int16_);
      });
  }
  return work;
}

FloatPlane Chain::run(FloatPlane x, int threads, size_t first, size_t last) const {
  last = std::min(last, layers_.size());
  for (size_t k = first; k < last; ++k) {
    const Portion portion(static_cast<int64_t>(k - first), static_cast<int64_t>(last - first));
    poll();
    x = run_layer(layers_[k], std::move(x), threads);
  }
  return x;
}

FloatPlane Chain::run_layer(const Layer& layer, FloatPlane x, int threads) const {
  const std::vector<Convolution>& steps = layer.packed;
  if (steps.size() == 1) return steps[0].run(x, threads);
  const FloatPlane middle = steps[0].run(x, threads);
  return steps[1].run(middle, std::move(x), threads);
}

std::vector<Window> Chain::windows(const Window& wanted, int64_t height, int64_t width, size_t first,
                                   size_t last) const {
  int64_t scale = 1;
  for (size_t k = first; k < last; ++k) scale *= layers_[k].shuffle();
  std::vector<Window> found(last - first + 1, wanted);
  for (size_t k = last; k-- > first;) {
    const Layer& layer = layers_[k];
    scale /= layer.shuffle();
    Window w = found[k + 1 - first].over(layer.shuffle());
    for (auto piece = layer.pieces.rbegin(); piece != layer.pieces.rend(); ++piece)
      w = inputs_of(w, piece->kernel, height * scale, width * scale);
    found[k - first] = w;
  }
  return found;
}

Window Chain::inputs(const Window& wanted, int64_t height, int64_t width, size_t first, size_t last) const {
  return windows(wanted, height, width, first, last).front();
}

PlanePart Chain::run(PlanePart x, const Window& wanted, int64_t height, int64_t width, int threads, size_t first,
                     size_t last) const {
  const std::vector<Window> needed = windows(wanted, height, width, first, last);
  x = cut(std::move(x), needed.front());
  for (size_t k = first; k < last; ++k) {
    const Portion portion(static_cast<int64_t>(k - first), static_cast<int64_t>(last - first));
    poll();
    x = {run_layer(layers_[k], std::move(x.values), threads), x.at.times(layers_[k].shuffle())};
    x = cut(std::move(x), needed[k + 1 - first]);
  }
  return x;
}

}  // namespace ccm
