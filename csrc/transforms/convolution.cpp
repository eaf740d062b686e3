#include "transforms/convolution.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace ccm {
namespace {

// Fewer input channels than this: gathering costs less than transforming. The kernel takes multiples of 8.
constexpr int32_t kWinogradInputs = 32;
// Fewer outputs than this: a convolution's time is its way to the points, which integers make longer.
constexpr int32_t kInt16Outputs = 33;
// Fewer channels after a pixel shuffle than this: its phases are too narrow to be computed one by one.
constexpr int32_t kPhaseOutputs = 8;

// Channel 4 c + s, sub-pixel s of channel c, to s * channels + c: whole phases one after another.
ConvolutionWeights phase_major(const ConvolutionWeights& w) {
  const int32_t channels = w.out / 4;
  const auto source = [channels](int64_t output) { return 4 * (output % channels) + output / channels; };
  ConvolutionWeights to{{}, {}, w.out, w.in, w.kernel};
  for (int32_t o = 0; o < w.out; ++o) to.bias.push_back(w.bias[static_cast<size_t>(source(o))]);
  to.weight = [source, inputs = w.inputs(), weight = w.weight](int64_t first, int32_t count, float* scratch) {
    for (int64_t o = first; o < first + count; ++o) {
      float* row = scratch + static_cast<size_t>(o - first) * inputs;
      const float* from = weight(source(o), 1, row);
      if (from != row) std::copy_n(from, inputs, row);
    }
    return scratch;
  };
  return to;
}

FloatPlane padded_to_even(const FloatPlane& x) {
  FloatPlane to(x.height + x.height % 2, x.width + x.width % 2, x.channels);
  const int64_t row = x.width * x.channels, wide = to.width * to.channels;
  for (int64_t i = 0; i < to.height; ++i) {
    float* at = to.at(i, 0);
    if (i < x.height) std::copy_n(x.at(i, 0), row, at);
    std::fill(i < x.height ? at + row : at, at + wide, 0.0f);
  }
  return to;
}

}  // namespace

std::vector<float> ConvolutionWeights::all() const {
  std::vector<float> to(static_cast<size_t>(out) * inputs());
  const float* from = weight(0, out, to.data());
  if (from != to.data()) std::copy_n(from, to.size(), to.data());
  return to;
}

Outputs outputs_of(std::vector<float> weights, size_t inputs) {
  return [weights = std::move(weights), inputs](int64_t first, int32_t, float*) {
    return weights.data() + static_cast<size_t>(first) * inputs;
  };
}

Convolution::Convolution(ConvolutionWeights w, const ConvolutionShape& shape, bool int16)
    : in_(w.in), out_(w.out), kernel_(w.kernel), stride_(shape.stride), padding_(shape.padding), slope_(shape.slope) {
  const bool biased = !w.bias.empty();
  if (!biased) w.bias.assign(static_cast<size_t>(w.out), 0.0f);
  const bool halved = stride_ == 2 && (kernel_ == 3 || kernel_ == 5), plain = stride_ == 1 && kernel_ == 3;
  winograd_ = (plain || halved) && padding_ == kernel_ / 2 && in_ >= kWinogradInputs && in_ % 8 == 0 && biased;
  if (shape.shuffle == 2) {
    w = phase_major(w);
    shuffle_after_ = !winograd_ || (out_ / 4 < kPhaseOutputs && slope_ == 1);
    if (!shuffle_after_) out_ /= 4, out_phases_ = 4;
  }
  int16_ = int16 && out_ >= kInt16Outputs;
  bias_ = w.bias;
  if (!winograd_)
    pack_direct(w);
  else if (halved)
    pack_strided(w);
  else
    pack_winograd3(w);
}

void Convolution::pack_winograd3(const ConvolutionWeights& w) {
  packed_ = pack_winograd({in_, out_, in_phases_, out_phases_}, w.weight, int16_);
}

// A 3x3 or 5x5 convolution of stride 2 is one of 3x3 after a pixel unshuffle: out[i] sums w[u] x[2 i - k / 2 + u], and
// that pixel is row i + s - 1 of the unshuffled plane a, if it is 2 (i + s - 1) + a.
void Convolution::pack_strided(const ConvolutionWeights& w) {
  in_phases_ = 4;
  const std::vector<float> from = w.all();
  std::vector<float> weight(static_cast<size_t>(out_) * 4 * in_ * 9);
  for (int32_t o = 0; o < out_; ++o)
    for (int32_t c = 0; c < in_; ++c)
      for (int32_t u = 0; u < kernel_; ++u)
        for (int32_t v = 0; v < kernel_; ++v) {
          const int32_t y = u - kernel_ / 2 + 2, x = v - kernel_ / 2 + 2;
          const int64_t phase = 2 * (y % 2) + x % 2, tap = 3 * (y / 2) + x / 2;
          weight[static_cast<size_t>(((o * int64_t{4} + phase) * in_ + c) * 9 + tap)] =
              from[((static_cast<size_t>(o) * in_ + c) * kernel_ + u) * kernel_ + v];
        }
  packed_ = pack_winograd({in_, out_, in_phases_, out_phases_}, weight.data(), int16_);
}

void Convolution::pack_direct(const ConvolutionWeights& w) {
  const int32_t area = kernel_ * kernel_, rows = area * in_;
  const int32_t depth = int16_ ? int16_depth(rows) : rows;
  const std::vector<float> weight = w.all();
  std::vector<float> matrix(static_cast<size_t>(depth) * out_);
  for (int32_t o = 0; o < out_; ++o)
    for (int32_t c = 0; c < in_; ++c)
      for (int32_t t = 0; t < area; ++t)
        matrix[(static_cast<size_t>(t) * in_ + c) * out_ + o] = weight[(static_cast<size_t>(o) * in_ + c) * area + t];
  if (int16_) {
    packed_ = PackedFloats(static_cast<size_t>(int16_floats(depth, out_)));
    pack_int16(matrix.data(), depth, out_, int16_chunk(depth), packed_.data());
  } else {
    packed_ = PackedFloats(static_cast<size_t>(panel_floats(rows, out_)));
    pack_panels(matrix.data(), rows, out_, out_, 1, packed_.data());
  }
}

FloatPlane Convolution::run(const FloatPlane& given, FloatPlane added, int threads) const {
  if (given.channels != in_) throw Error(ErrorCode::kInternal, "a plane of the wrong number of channels");
  const bool odd = in_phases_ == 4 && (given.height % 2 || given.width % 2);
  const FloatPlane even = odd ? padded_to_even(given) : FloatPlane();
  const FloatPlane& x = odd ? even : given;
  const int64_t up = out_phases_ == 4 ? 2 : 1, down = in_phases_ == 4 ? 2 : 1;
  const auto side = [&](int64_t n) { return winograd_ ? n / down * up : (n + 2 * padding_ - kernel_) / stride_ + 1; };
  const int64_t height = side(x.height), width = side(x.width);
  Epilogue after{bias_.data()};
  if (slope_ != 1) after.activation = kLeaky, after.slope = slope_;
  const bool adds = added.height != 0;
  if (adds && (added.height != height || added.width != width || added.channels != out_))
    throw Error(ErrorCode::kInternal, "a residual of another shape");
  FloatPlane y = adds ? std::move(added) : FloatPlane(height, width, out_);
  if (adds) after.residual = y.values.data();
  const TransformKernels& k = transform_kernels();
  if (winograd_)
    (int16_ ? k.winograd_int16 : k.winograd)({{in_, out_, in_phases_, out_phases_},
                                              x.values.data(),
                                              packed_.data(),
                                              y.values.data(),
                                              1,
                                              x.height / down,
                                              x.width / down,
                                              after},
                                             threads);
  else
    (int16_ ? k.direct_int16 : k.direct)({x.values.data(), packed_.data(), y.values.data(), 1, x.height, x.width,
                                          height, width, in_, out_, kernel_, stride_, padding_, after},
                                         threads);
  return shuffle_after_ ? shuffled(y) : std::move(y);
}

FloatPlane Convolution::shuffled(const FloatPlane& phases) const {
  const int32_t channels = out_ / 4;
  FloatPlane to(2 * phases.height, 2 * phases.width, channels);
  for (int64_t i = 0; i < phases.height; ++i)
    for (int64_t j = 0; j < phases.width; ++j)
      for (int32_t s = 0; s < 4; ++s)
        std::copy_n(phases.at(i, j) + s * channels, channels, to.at(2 * i + s / 2, 2 * j + s % 2));
  return to;
}

}  // namespace ccm
