// A convolution of a transform, packed for the kernels of transform.h, with its pixel (un)shuffle and leaky ReLU: the
// same choices as ccm_fast/models/inference.py makes for torch's modules, so that both give the same floats.
#pragma once
#include <cstdint>
#include <vector>

#include "base/float_buffer.h"
#include "transforms/transform.h"

namespace ccm {

// A plane of floats, channels last: [height][width][channels].
struct FloatPlane {
  FloatPlane() = default;
  FloatPlane(int64_t height, int64_t width, int32_t channels)
      : height(height), width(width), channels(channels), values(static_cast<size_t>(height * width * channels)) {}

  float* at(int64_t i, int64_t j) { return values.data() + (i * width + j) * channels; }
  const float* at(int64_t i, int64_t j) const { return values.data() + (i * width + j) * channels; }

  int64_t height = 0, width = 0;
  int32_t channels = 0;
  FloatBuffer values;
};

// Floats of a convolution as torch keeps them: weight [out][in][kernel][kernel], bias [out] or empty.
struct ConvolutionWeights {
  Outputs weight;
  std::vector<float> bias;
  int32_t out, in, kernel;

  // Weights of an output.
  size_t inputs() const { return static_cast<size_t>(in) * kernel * kernel; }
  // Those of all.
  std::vector<float> all() const;
};

// Of weights in memory, so many of an output.
Outputs outputs_of(std::vector<float> weights, size_t inputs);

struct ConvolutionShape {
  int32_t stride = 1, padding = 0;
  int32_t shuffle = 1;  // 2: a pixel shuffle follows, and the result has a quarter of the channels
  float slope = 1;      // of negative values, by a leaky ReLU; 1: linear
};

class Convolution {
 public:
  Convolution() = default;
  // Packs. int16: products of 16-bit integers where they pay (transform_kernels() must have them).
  Convolution(ConvolutionWeights w, const ConvolutionShape& shape, bool int16);

  // The result; `added`, if not empty, is a plane of its shape that is added and whose memory the result takes over.
  FloatPlane run(const FloatPlane& x, FloatPlane added, int threads) const;
  FloatPlane run(const FloatPlane& x, int threads) const { return run(x, {}, threads); }

 private:
  void pack_winograd3(const ConvolutionWeights& w);
  void pack_direct(const ConvolutionWeights& w);
  void pack_strided(const ConvolutionWeights& w);
  FloatPlane shuffled(const FloatPlane& phases) const;

  bool winograd_ = false, int16_ = false;
  // Whether the shuffle is a matter of its own, after all phases have been computed as channels.
  bool shuffle_after_ = false;
  int32_t in_ = 0, out_ = 0, kernel_ = 0, stride_ = 1, padding_ = 0, in_phases_ = 1, out_phases_ = 1;
  float slope_ = 1;
  PackedFloats packed_;
  std::vector<float> bias_;
};

}  // namespace ccm
