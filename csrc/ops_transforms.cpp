// Operators of the transforms' float convolutions; no algorithms.
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/transform.h"
#include "ops_common.h"

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

const float* optional_data(const std::optional<Tensor>& t, const std::vector<int64_t>& shape, const std::string& name) {
  if (!t) return nullptr;
  check_tensor(*t, ScalarType::Float, shape, name);
  return data<float>(*t);
}

// `shape`: of the result; its last dimension are the columns.
ccm::Epilogue epilogue(const Tensor& bias, int64_t bias_size, int64_t activation, double slope,
                       const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta,
                       const std::optional<Tensor>& residual, const std::vector<int64_t>& shape) {
  check_tensor(bias, ScalarType::Float, {bias_size}, "bias");
  check(activation >= ccm::kLinear && activation <= ccm::kInverseGdn, "no such activation");
  const bool gdn = activation == ccm::kGdn || activation == ccm::kInverseGdn;
  check(gdn == gamma.has_value() && gdn == beta.has_value(), "gamma and beta belong to GDN");
  const int64_t columns = shape.back();
  ccm::Epilogue e;
  e.bias = data<float>(bias);
  e.activation = static_cast<int32_t>(activation);
  e.slope = static_cast<float>(slope);
  e.gamma = optional_data(gamma, {ccm::panel_floats(columns, columns)}, "gamma");
  e.beta = optional_data(beta, {columns}, "beta");
  e.residual = optional_data(residual, shape, "residual");
  return e;
}

Tensor new_plane(const Tensor& like, const std::vector<int64_t>& shape) {
  Tensor y = torch::stable::new_empty(like, {shape.data(), shape.size()});
  ccm::want_huge_pages(y.data_ptr(), static_cast<size_t>(y.numel()) * sizeof(float));
  return y;
}

void huge_pages(Tensor x) {
  check(x.is_cpu() && x.is_contiguous() && x.scalar_type() == ScalarType::Float,
        "x must be float32, on the CPU, contiguous");
  ccm::want_huge_pages(x.data_ptr(), static_cast<size_t>(x.numel()) * sizeof(float));
}

int thread_count(int64_t threads) {
  check(threads >= 1 && threads <= 1024, "threads must lie in 1..1024");
  return static_cast<int>(threads);
}

Tensor pack_panels(Tensor matrix) {
  check_tensor(matrix, ScalarType::Float, {-1, -1}, "matrix");
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  check(rows <= 64 * kMaxChannels && columns <= kMaxChannels, "the matrix is too large");
  Tensor out = torch::stable::new_empty(matrix, {ccm::panel_floats(rows, columns)});
  ccm::pack_panels(data<float>(matrix), static_cast<int32_t>(rows), static_cast<int32_t>(columns), columns, 1,
                   data<float>(out));
  return out;
}

Tensor pack_winograd(Tensor weight, int64_t in_phases, int64_t out_phases) {
  check_tensor(weight, ScalarType::Float, {-1, -1, 3, 3}, "weight");
  check(in_phases >= 1 && out_phases >= 1, "phases must be 1 or 4");
  const ccm::WinogradShape s =
      winograd_shape(weight.size(1) / in_phases, weight.size(0) / out_phases, in_phases, out_phases);
  check(weight.size(1) == in_phases * s.in && weight.size(0) == out_phases * s.out, "channels do not divide by phases");
  const std::vector<float> packed = ccm::pack_winograd(s, data<float>(weight));
  Tensor out = torch::stable::new_empty(weight, {static_cast<int64_t>(packed.size())});
  std::copy(packed.begin(), packed.end(), data<float>(out));
  return out;
}

// Where a result goes: to a plane of its own, or to one that there is (a given `plane`), whose values are then added if
// `add` says so.
struct Result {
  std::optional<Tensor> plane;
  bool add = false;
  std::optional<Tensor> residual;

  Tensor fit(const Tensor& x, const std::vector<int64_t>& shape) {
    if (!plane) return new_plane(x, shape);
    check_tensor(*plane, ScalarType::Float, shape, "y");
    check(plane->data_ptr() != x.data_ptr(), "y must not be x");
    if (add) residual = plane;
    return *plane;
  }
};

Tensor run_winograd(const Tensor& x, const Tensor& packed, int64_t out, int64_t in_phases, int64_t out_phases,
                    const Tensor& bias, int64_t activation, double slope, const std::optional<Tensor>& gamma,
                    const std::optional<Tensor>& beta, Result result, int64_t threads) {
  check_tensor(x, ScalarType::Float, {-1, -1, -1, -1}, "x");
  const ccm::WinogradShape s = winograd_shape(x.size(3), out, in_phases, out_phases);
  const int64_t batch = x.size(0), down = in_phases == 4 ? 2 : 1, up = out_phases == 4 ? 2 : 1;
  check(x.size(1) % down == 0 && x.size(2) % down == 0, "x must have even sides to be unshuffled");
  const int64_t h = x.size(1) / down, w = x.size(2) / down;
  check(h < (1 << 20) && w < (1 << 20), "x is too large");
  check_tensor(packed, ScalarType::Float, {-1}, "packed");
  check(ccm::winograd_fits(s, data<float>(packed), packed.numel()), "packed is no kernel of this shape");
  const std::vector<int64_t> shape{batch, h * up, w * up, out};
  Tensor y = result.fit(x, shape);
  const ccm::Epilogue after = epilogue(bias, out * out_phases, activation, slope, gamma, beta, result.residual, shape);
  ccm::transform_kernels().winograd({s, data<float>(x), data<float>(packed), data<float>(y), batch, h, w, after},
                                    thread_count(threads));
  return y;
}

Tensor winograd(Tensor x, Tensor packed, int64_t out, int64_t in_phases, int64_t out_phases, Tensor bias,
                int64_t activation, double slope, std::optional<Tensor> gamma, std::optional<Tensor> beta,
                std::optional<Tensor> residual, int64_t threads) {
  return run_winograd(x, packed, out, in_phases, out_phases, bias, activation, slope, gamma, beta,
                      {std::nullopt, false, residual}, threads);
}

void winograd_into(Tensor x, Tensor packed, int64_t in_phases, int64_t out_phases, Tensor bias, int64_t activation,
                   double slope, std::optional<Tensor> gamma, std::optional<Tensor> beta,
                   std::optional<Tensor> residual, Tensor y, bool add, int64_t threads) {
  check(y.dim() == 4, "y has the wrong number of dimensions");
  check(!add || !residual, "y is added, or a residual");
  run_winograd(x, packed, y.size(3), in_phases, out_phases, bias, activation, slope, gamma, beta, {y, add, residual},
               threads);
}

Tensor run_direct(const Tensor& x, const Tensor& weights, int64_t out, int64_t kernel, int64_t stride, int64_t padding,
                  const Tensor& bias, int64_t activation, double slope, const std::optional<Tensor>& gamma,
                  const std::optional<Tensor>& beta, Result result, int64_t threads) {
  check_tensor(x, ScalarType::Float, {-1, -1, -1, -1}, "x");
  check(kernel >= 1 && kernel <= 16 && stride >= 1 && stride <= 16 && padding >= 0 && padding < kernel,
        "kernel and stride must lie in 1..16, padding below the kernel");
  const int64_t in = x.size(3), h = x.size(1), w = x.size(2);
  check(in <= kMaxChannels && out >= 1 && out <= kMaxChannels, "channels must lie in 1..16384");
  check(h < (1 << 20) && w < (1 << 20), "x is too large");
  const int64_t oh = (h + 2 * padding - kernel) / stride + 1, ow = (w + 2 * padding - kernel) / stride + 1;
  check(h + 2 * padding >= kernel && w + 2 * padding >= kernel, "x is smaller than the kernel");
  check_tensor(weights, ScalarType::Float, {ccm::panel_floats(kernel * kernel * in, out)}, "weights");
  const std::vector<int64_t> shape{x.size(0), oh, ow, out};
  Tensor y = result.fit(x, shape);
  const ccm::Epilogue after = epilogue(bias, out, activation, slope, gamma, beta, result.residual, shape);
  ccm::transform_kernels().direct({data<float>(x), data<float>(weights), data<float>(y), x.size(0), h, w, oh, ow,
                                   static_cast<int32_t>(in), static_cast<int32_t>(out), static_cast<int32_t>(kernel),
                                   static_cast<int32_t>(stride), static_cast<int32_t>(padding), after},
                                  thread_count(threads));
  return y;
}

Tensor direct(Tensor x, Tensor weights, int64_t out, int64_t kernel, int64_t stride, int64_t padding, Tensor bias,
              int64_t activation, double slope, std::optional<Tensor> gamma, std::optional<Tensor> beta,
              std::optional<Tensor> residual, int64_t threads) {
  return run_direct(x, weights, out, kernel, stride, padding, bias, activation, slope, gamma, beta,
                    {std::nullopt, false, residual}, threads);
}

void direct_into(Tensor x, Tensor weights, int64_t kernel, int64_t stride, int64_t padding, Tensor bias,
                 int64_t activation, double slope, std::optional<Tensor> gamma, std::optional<Tensor> beta,
                 std::optional<Tensor> residual, Tensor y, bool add, int64_t threads) {
  check(y.dim() == 4, "y has the wrong number of dimensions");
  check(!add || !residual, "y is added, or a residual");
  run_direct(x, weights, y.size(3), kernel, stride, padding, bias, activation, slope, gamma, beta, {y, add, residual},
             threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ccm_fast, m) {
  m.def("huge_pages(Tensor(a!) x) -> ()");
  m.def("pack_panels(Tensor matrix) -> Tensor");
  m.def("pack_winograd(Tensor weight, int in_phases, int out_phases) -> Tensor");
  m.def(
      "winograd(Tensor x, Tensor packed, int out, int in_phases, int out_phases, Tensor bias, int activation, float "
      "slope, Tensor? gamma, Tensor? beta, Tensor? residual, int threads) -> Tensor");
  m.def(
      "direct(Tensor x, Tensor weights, int out, int kernel, int stride, int padding, Tensor bias, int activation, "
      "float slope, Tensor? gamma, Tensor? beta, Tensor? residual, int threads) -> Tensor");
  m.def(
      "winograd_into(Tensor x, Tensor packed, int in_phases, int out_phases, Tensor bias, int activation, float slope, "
      "Tensor? gamma, Tensor? beta, Tensor? residual, Tensor(a!) y, bool add, int threads) -> ()");
  m.def(
      "direct_into(Tensor x, Tensor weights, int kernel, int stride, int padding, Tensor bias, int activation, float "
      "slope, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor(a!) y, bool add, int threads) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) {
  m.impl("huge_pages", TORCH_BOX(&huge_pages));
  m.impl("pack_panels", TORCH_BOX(&pack_panels));
  m.impl("pack_winograd", TORCH_BOX(&pack_winograd));
  m.impl("winograd", TORCH_BOX(&winograd));
  m.impl("direct", TORCH_BOX(&direct));
  m.impl("winograd_into", TORCH_BOX(&winograd_into));
  m.impl("direct_into", TORCH_BOX(&direct_into));
}
