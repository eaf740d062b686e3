// A row of layers of g_a or g_s.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "model/weights.h"
#include "transforms/convolution.h"
#include "transforms/window.h"

namespace ccm {

// Of the residual blocks.
constexpr float kBlockSlope = 0.01f;

// NAME.weight and, if wanted, NAME.bias of a weights file. Weights are converted when they are packed, a panel at a
// time: all floats of a layer at once are memory fresh from the system. Throws Error (kModel), then too.
ConvolutionWeights read_convolution(const WeightsFile& file, const std::string& name, int32_t out, int32_t in,
                                    int32_t kernel, bool biased = true);

class Chain {
 public:
  // Layers are announced in order and packed by pack(), some at a time. They are read from the file by
  // torch's names: PREFIX.INDEX, where a pixel shuffle takes an index of its own.
  Chain(const WeightsFile& file, std::string prefix, int32_t first_index, bool int16)
      : file_(&file), prefix_(std::move(prefix)), index_(first_index), int16_(int16) {}

  // k x k, padding k / 2.
  void convolution(int32_t in, int32_t out, int32_t kernel, int32_t stride = 1);
  // 3x3 to 4 `out` channels, then a pixel shuffle by 2.
  void upsampling(int32_t in, int32_t out);
  // x + conv3x3(leaky(conv3x3(x))), `count` times.
  void blocks(int32_t channels, int32_t count);
  // A leaky ReLU after the last convolution; it takes an index of its own.
  void leaky(float slope);

  // The work of packing, in pieces for several threads; each is to be run once, before run().
  std::vector<std::function<void()>> packing();

  // The result of layers [first, last) of x, whose memory is given back as soon as it is not needed.
  FloatPlane run(FloatPlane x, int threads, size_t first = 0, size_t last = SIZE_MAX) const;

  // The same of a part of x, of what is wanted of the last layer's result: to the last bit what the whole plane gives.
  // height, width: of the whole plane. x has at least what inputs() says of the same layers.
  PlanePart run(PlanePart x, const Window& wanted, int64_t height, int64_t width, int threads, size_t first,
                size_t last) const;
  // What run() needs of a plane of height x width.
  Window inputs(const Window& wanted, int64_t height, int64_t width, size_t first, size_t last) const;

  size_t layers() const { return layers_.size(); }
  // Of the last convolution, without ".weight".
  const std::string& last_name() const { return layers_.back().pieces.back().name; }
  // For the receptive field.
  const std::vector<SpanLayer>& span() const { return span_; }

 private:
  struct Piece {
    std::string name;
    int32_t in, out, kernel;
    ConvolutionShape shape;
  };
  struct Layer {
    std::vector<Piece> pieces;        // one, or the two of a residual block
    std::vector<Convolution> packed;  // as many
    int64_t shuffle() const { return pieces.back().shape.shuffle; }
  };
  void add(std::vector<Piece> pieces);
  FloatPlane run_layer(const Layer& layer, FloatPlane x, int threads) const;
  // What layers [first, last) read, each of its own plane, and what is wanted of the last one's result.
  std::vector<Window> windows(const Window& wanted, int64_t height, int64_t width, size_t first, size_t last) const;
  std::string next_name() { return prefix_ + "." + std::to_string(index_++); }

  const WeightsFile* file_;
  std::string prefix_;
  int32_t index_;
  bool int16_;
  std::vector<Layer> layers_;
  std::vector<SpanLayer> span_;
};

}  // namespace ccm
