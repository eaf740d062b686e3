// Operators of the transforms' convolutions in training; no algorithms.
#include <optional>
#include <string>
#include <vector>

#include "base/memory.h"
#include "torch/interruptible.h"
#include "torch/ops_common.h"
#include "training/transform_gradient.h"

namespace {

using namespace ccm_ops;

void check_stride(int64_t stride) { check(stride == 1 || stride == 2, "stride must be 1 or 2"); }

// Sizes of the result's plane, and what the kernel and the planes are checked against.
ccm::Conv3x3 convolution(int64_t in, int64_t out, int64_t stride, int64_t batch, int64_t height, int64_t width) {
  check(in >= 8 && in % 8 == 0 && in <= (1 << 14), "input channels must be a multiple of 8");
  check(out >= 8 && out % 8 == 0 && out <= (1 << 14), "output channels must be a multiple of 8");
  check(height < (1 << 20) && width < (1 << 20), "the plane is too large");
  return {static_cast<int32_t>(in), static_cast<int32_t>(out), static_cast<int32_t>(stride), batch, height, width};
}

// A kernel packed for one call.
class Packed {
 public:
  Packed(const ccm::Conv3x3& c, const Tensor& weight, bool gradient, int threads)
      : floats_(static_cast<size_t>(ccm::packed_floats(c, gradient))), data_(ccm::take_floats(floats_)) {
    ccm::gradient_kernels().pack(c, ccm_ops::data<float>(weight), gradient, data_, threads);
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  ~Packed() { ccm::give_floats(data_, floats_); }
  const float* get() const { return data_; }

 private:
  size_t floats_;
  float* data_;
};

Tensor conv3x3(Tensor x, Tensor weight, Tensor bias, int64_t stride, std::optional<double> slope,
               std::optional<Tensor> residual, int64_t threads) {
  check_tensor(x, ScalarType::Float, {-1, -1, -1, -1}, "x");
  check_tensor(weight, ScalarType::Float, {-1, 3, 3, x.size(3)}, "weight");
  check_stride(stride);
  check(x.size(1) % stride == 0 && x.size(2) % stride == 0, "x's sides must be multiples of the stride");
  const ccm::Conv3x3 c =
      convolution(x.size(3), weight.size(0), stride, x.size(0), x.size(1) / stride, x.size(2) / stride);
  const std::vector<int64_t> shape{c.batch, c.height, c.width, c.out};
  check_tensor(bias, ScalarType::Float, {c.out}, "bias");
  ccm::Epilogue after{data<float>(bias)};
  if (slope) after.activation = ccm::kLeaky, after.slope = static_cast<float>(*slope);
  after.residual = optional_data(residual, shape, "residual");
  Tensor y = torch::stable::new_empty(x, {shape.data(), shape.size()});
  const int n = thread_count(threads);
  const Packed kernel(c, weight, false, n);
  ccm::transform_kernels().winograd(
      {c.shape(false), data<float>(x), kernel.get(), data<float>(y), c.batch, c.height, c.width, after}, n);
  return y;
}

Tensor conv3x3_input_gradient(Tensor dy, Tensor weight, int64_t stride, std::optional<Tensor> residual,
                              int64_t threads) {
  check_tensor(dy, ScalarType::Float, {-1, -1, -1, -1}, "dy");
  check_tensor(weight, ScalarType::Float, {dy.size(3), 3, 3, -1}, "weight");
  check_stride(stride);
  const ccm::Conv3x3 c = convolution(weight.size(3), dy.size(3), stride, dy.size(0), dy.size(1), dy.size(2));
  const std::vector<int64_t> shape{c.batch, c.height * stride, c.width * stride, c.in};
  ccm::Epilogue after{nullptr};
  after.residual = optional_data(residual, shape, "residual");
  Tensor dx = torch::stable::new_empty(dy, {shape.data(), shape.size()});
  const int n = thread_count(threads);
  const Packed kernel(c, weight, true, n);
  ccm::transform_kernels().winograd(
      {c.shape(true), data<float>(dy), kernel.get(), data<float>(dx), c.batch, c.height, c.width, after}, n);
  return dx;
}

Tensor conv3x3_weight_gradient(Tensor x, Tensor dy, int64_t stride, int64_t threads) {
  check_tensor(x, ScalarType::Float, {-1, -1, -1, -1}, "x");
  check_stride(stride);
  const ccm::Conv3x3 c =
      convolution(x.size(3), dy.dim() == 4 ? dy.size(3) : 0, stride, x.size(0), x.size(1) / stride, x.size(2) / stride);
  check(x.size(1) == c.height * stride && x.size(2) == c.width * stride, "x's sides must be multiples of the stride");
  check_tensor(dy, ScalarType::Float, {c.batch, c.height, c.width, c.out}, "dy");
  const std::vector<int64_t> shape{c.out, 3, 3, c.in};
  Tensor dw = torch::stable::new_empty(x, {shape.data(), shape.size()});
  ccm::gradient_kernels().weight_gradient(c, data<float>(x), data<float>(dy), data<float>(dw), thread_count(threads));
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ccm_fast, m) {
  m.def(
      "conv3x3(Tensor x, Tensor weight, Tensor bias, int stride, float? slope, Tensor? residual, int threads) -> "
      "Tensor");
  m.def("conv3x3_input_gradient(Tensor dy, Tensor weight, int stride, Tensor? residual, int threads) -> Tensor");
  m.def("conv3x3_weight_gradient(Tensor x, Tensor dy, int stride, int threads) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) {
  m.impl("conv3x3", CCM_INTERRUPTIBLE(conv3x3));
  m.impl("conv3x3_input_gradient", CCM_INTERRUPTIBLE(conv3x3_input_gradient));
  m.impl("conv3x3_weight_gradient", CCM_INTERRUPTIBLE(conv3x3_weight_gradient));
}
