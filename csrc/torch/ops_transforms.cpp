// Operators of the transforms' float convolutions; no algorithms.
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/checksum.h"
#include "base/memory.h"
#include "torch/interruptible.h"
#include "torch/ops_common.h"
#include "transforms/transform.h"

namespace {

using namespace ccm_ops;

constexpr int64_t kMaxChannels = 1 << 14;

ccm::WinogradShape winograd_shape(int64_t in, int64_t out, int64_t in_phases, int64_t out_phases) {
  check(in >= 8 && in <= kMaxChannels && in % 8 == 0, "input channels must be a multiple of 8");
  check(out >= 1 && out <= kMaxChannels, "output channels must lie in 1..16384");
  check((in_phases == 1 || in_phases == 4) && (out_phases == 1 || out_phases == 4), "phases must be 1 or 4");
  return {static_cast<int32_t>(in), static_cast<int32_t>(out), static_cast<int32_t>(in_phases),
          static_cast<int32_t>(out_phases)};
}

// `shape`: of the result; its last dimension are the columns.
ccm::Epilogue epilogue(const Tensor& bias, int64_t bias_size, int64_t activation, double slope,
                       const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta,
                       const std::optional<Tensor>& residual, const std::vector<int64_t>& shape, bool int16) {
  check_tensor(bias, ScalarType::Float, {bias_size}, "bias");
  check(activation >= ccm::kLinear && activation <= ccm::kInverseGdn, "no such activation");
  const bool gdn = activation == ccm::kGdn || activation == ccm::kInverseGdn;
  check(gdn == gamma.has_value() && gdn == beta.has_value(), "gamma and beta belong to GDN");
  const int64_t columns = shape.back();
  ccm::Epilogue e;
  e.bias = data<float>(bias);
  e.activation = static_cast<int32_t>(activation);
  e.slope = static_cast<float>(slope);
  check(!int16 || ccm::transform_kernels().winograd_int16, "this machine has no int16 transforms");
  check(!int16 || !gdn || columns % 8 == 0, "GDN in int16 takes a multiple of 8 channels");
  e.int16 = int16;
  const int64_t gamma_floats = int16 ? ccm::int16_floats(columns, columns) : ccm::panel_floats(columns, columns);
  e.gamma = optional_data(gamma, {gamma_floats}, "gamma");
  e.beta = optional_data(beta, {columns}, "beta");
  e.residual = optional_data(residual, shape, "residual");
  return e;
}

void huge_pages(Tensor x) {
  check(x.is_cpu() && x.is_contiguous() && x.scalar_type() == ScalarType::Float,
        "x must be float32, on the CPU, contiguous");
  ccm::want_huge_pages(x.data_ptr(), static_cast<size_t>(x.numel()) * sizeof(float));
}

// Of the values as they lie in memory, as int64 [1].
Tensor checksum(Tensor x) {
  check(x.is_cpu() && x.is_contiguous(), "x must be on the CPU, contiguous");
  const size_t bytes = static_cast<size_t>(x.numel()) * x.element_size();
  const uint64_t sum = ccm::checksum(x.data_ptr(), bytes);
  Tensor out = torch::stable::new_empty(x, {1}, ScalarType::Long);
  std::memcpy(out.data_ptr(), &sum, sizeof sum);
  return out;
}

// whole: sums go over all rows, as a GDN's do, and not over chunks of them.
Tensor pack_panels(Tensor matrix, bool int16, bool whole) {
  check_tensor(matrix, ScalarType::Float, {-1, -1}, "matrix");
  check(matrix.size(0) <= 64 * kMaxChannels && matrix.size(1) <= kMaxChannels, "the matrix is too large");
  const int32_t rows = static_cast<int32_t>(matrix.size(0)), columns = static_cast<int32_t>(matrix.size(1));
  const float* from = data<float>(matrix);
  if (!int16) {
    Tensor out = torch::stable::new_empty(matrix, {ccm::panel_floats(rows, columns)});
    ccm::pack_panels(from, rows, columns, columns, 1, data<float>(out));
    return out;
  }
  const int32_t depth = ccm::int16_depth(rows);
  std::vector<float> padded(static_cast<size_t>(depth) * columns);
  std::copy(from, from + static_cast<size_t>(rows) * columns, padded.begin());
  Tensor out = torch::stable::new_empty(matrix, {ccm::int16_floats(depth, columns)});
  ccm::pack_int16(padded.data(), depth, columns, whole ? depth : ccm::int16_chunk(depth), data<float>(out));
  return out;
}

bool has_int16_transforms() { return ccm::transform_kernels().winograd_int16 != nullptr; }

std::string transform_isa() {
  constexpr const char* kNames[] = {"scalar", "avx2", "avxvnni", "avx512vnni"};
  return kNames[ccm::transform_isa()];
}

Tensor pack_winograd(Tensor weight, int64_t in_phases, int64_t out_phases, bool int16) {
  check_tensor(weight, ScalarType::Float, {-1, -1, 3, 3}, "weight");
  check(in_phases >= 1 && out_phases >= 1, "phases must be 1 or 4");
  const ccm::WinogradShape s =
      winograd_shape(weight.size(1) / in_phases, weight.size(0) / out_phases, in_phases, out_phases);
  check(weight.size(1) == in_phases * s.in && weight.size(0) == out_phases * s.out, "channels do not divide by phases");
  const ccm::PackedFloats packed = ccm::pack_winograd(s, data<float>(weight), int16);
  Tensor out = torch::stable::new_empty(weight, {static_cast<int64_t>(packed.size())});
  std::copy_n(packed.data(), packed.size(), data<float>(out));
  return out;
}

// Checks where a result goes. What is added last: a residual, the values that y holds (`add`), or nothing.
std::optional<Tensor> added(const Tensor& x, const Tensor& y, const std::vector<int64_t>& shape, bool add,
                            const std::optional<Tensor>& residual) {
  check_tensor(y, ScalarType::Float, shape, "y");
  check(y.data_ptr() != x.data_ptr(), "y must not be x");
  check(!add || !residual, "y is added, or a residual");
  return add ? std::optional<Tensor>(y) : residual;
}

void winograd(Tensor x, Tensor packed, int64_t in_phases, int64_t out_phases, Tensor bias, int64_t activation,
              double slope, std::optional<Tensor> gamma, std::optional<Tensor> beta, std::optional<Tensor> residual,
              Tensor y, bool add, bool int16, int64_t threads) {
  check_tensor(x, ScalarType::Float, {-1, -1, -1, -1}, "x");
  check_tensor(y, ScalarType::Float, {-1, -1, -1, -1}, "y");
  const int64_t out = y.size(3);
  const ccm::WinogradShape s = winograd_shape(x.size(3), out, in_phases, out_phases);
  const int64_t batch = x.size(0), down = in_phases == 4 ? 2 : 1, up = out_phases == 4 ? 2 : 1;
  check(x.size(1) % down == 0 && x.size(2) % down == 0, "x must have even sides to be unshuffled");
  const int64_t h = x.size(1) / down, w = x.size(2) / down;
  check(h < (1 << 20) && w < (1 << 20), "x is too large");
  check_tensor(packed, ScalarType::Float, {-1}, "packed");
  check(ccm::winograd_fits(s, data<float>(packed), packed.numel(), int16), "packed is no kernel of this shape");
  const std::vector<int64_t> shape{batch, h * up, w * up, out};
  const std::optional<Tensor> last = added(x, y, shape, add, residual);
  const ccm::Epilogue after = epilogue(bias, out * out_phases, activation, slope, gamma, beta, last, shape, int16);
  const ccm::TransformKernels& kernels = ccm::transform_kernels();
  (int16 ? kernels.winograd_int16 : kernels.winograd)(
      {s, data<float>(x), data<float>(packed), data<float>(y), batch, h, w, after}, thread_count(threads));
}

void direct(Tensor x, Tensor weights, int64_t kernel, int64_t stride, int64_t padding, Tensor bias, int64_t activation,
            double slope, std::optional<Tensor> gamma, std::optional<Tensor> beta, std::optional<Tensor> residual,
            Tensor y, bool add, bool int16, int64_t threads) {
  check_tensor(x, ScalarType::Float, {-1, -1, -1, -1}, "x");
  check_tensor(y, ScalarType::Float, {-1, -1, -1, -1}, "y");
  check(kernel >= 1 && kernel <= 16 && stride >= 1 && stride <= 16 && padding >= 0 && padding < kernel,
        "kernel and stride must lie in 1..16, padding below the kernel");
  const int64_t in = x.size(3), out = y.size(3), h = x.size(1), w = x.size(2);
  check(in <= kMaxChannels && out >= 1 && out <= kMaxChannels, "channels must lie in 1..16384");
  check(h < (1 << 20) && w < (1 << 20), "x is too large");
  const int64_t oh = (h + 2 * padding - kernel) / stride + 1, ow = (w + 2 * padding - kernel) / stride + 1;
  check(h + 2 * padding >= kernel && w + 2 * padding >= kernel, "x is smaller than the kernel");
  const int64_t depth = kernel * kernel * in;
  const int64_t floats =
      int16 ? ccm::int16_floats(ccm::int16_depth(static_cast<int32_t>(depth)), out) : ccm::panel_floats(depth, out);
  check_tensor(weights, ScalarType::Float, {floats}, "weights");
  const std::vector<int64_t> shape{x.size(0), oh, ow, out};
  const std::optional<Tensor> last = added(x, y, shape, add, residual);
  const ccm::Epilogue after = epilogue(bias, out, activation, slope, gamma, beta, last, shape, int16);
  const ccm::TransformKernels& kernels = ccm::transform_kernels();
  (int16 ? kernels.direct_int16 : kernels.direct)(
      {data<float>(x), data<float>(weights), data<float>(y), x.size(0), h, w, oh, ow, static_cast<int32_t>(in),
       static_cast<int32_t>(out), static_cast<int32_t>(kernel), static_cast<int32_t>(stride),
       static_cast<int32_t>(padding), after},
      thread_count(threads));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ccm_fast, m) {
  m.def("huge_pages(Tensor(a!) x) -> ()");
  m.def("checksum(Tensor x) -> Tensor");
  m.def("has_int16_transforms() -> bool");
  m.def("transform_isa() -> str");
  m.def("pack_panels(Tensor matrix, bool int16, bool whole) -> Tensor");
  m.def("pack_winograd(Tensor weight, int in_phases, int out_phases, bool int16) -> Tensor");
  m.def(
      "winograd(Tensor x, Tensor packed, int in_phases, int out_phases, Tensor bias, int activation, float slope, "
      "Tensor? gamma, Tensor? beta, Tensor? residual, Tensor(a!) y, bool add, bool int16, int threads) -> ()");
  m.def(
      "direct(Tensor x, Tensor weights, int kernel, int stride, int padding, Tensor bias, int activation, float "
      "slope, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor(a!) y, bool add, bool int16, int threads) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CompositeExplicitAutograd, m) {
  m.impl("has_int16_transforms", TORCH_BOX(&has_int16_transforms));
  m.impl("transform_isa", TORCH_BOX(&transform_isa));
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) {
  m.impl("huge_pages", TORCH_BOX(&huge_pages));
  m.impl("checksum", TORCH_BOX(&checksum));
  m.impl("pack_panels", TORCH_BOX(&pack_panels));
  m.impl("pack_winograd", TORCH_BOX(&pack_winograd));
  m.impl("winograd", CCM_INTERRUPTIBLE(winograd));
  m.impl("direct", CCM_INTERRUPTIBLE(direct));
}
