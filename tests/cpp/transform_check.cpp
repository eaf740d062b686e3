// The float convolutions of every instruction set against plain loops, on odd shapes, for the sanitizers: argument
// THREADS. Prints "ok" and how many instruction sets there were.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "training/transform_gradient.h"
#include "transforms/transform.h"

namespace {

using Floats = std::vector<float>;

std::mt19937 generator(3);

Floats draw(int64_t n, float low = -1, float high = 1) {
  std::uniform_real_distribution<float> uniform(low, high);
  Floats v(n);
  for (float& x : v) x = uniform(generator);
  return v;
}

struct Case {
  int batch, height, width, in, out, kernel, stride, padding, in_phases, out_phases, activation;
  bool residual;
};

// Weight [out_phases * out][in_phases * in][kernel][kernel], on planes with their phases apart; Winograd's for 3x3.
Floats expected(const Case& c, int oh, int ow, const Floats& x, const Floats& w, const Floats& bias,
                const Floats& gamma, const Floats& beta, const Floats& residual) {
  const int down = c.in_phases == 4 ? 2 : 1, up = c.out_phases == 4 ? 2 : 1;
  Floats y(residual.size());
  for (int b = 0; b < c.batch; ++b)
    for (int i = 0; i < oh; ++i)
      for (int j = 0; j < ow; ++j)
        for (int o = 0; o < c.out_phases; ++o) {
          std::vector<double> row(c.out);
          for (int k = 0; k < c.out; ++k) {
            double sum = bias[o * c.out + k];
            for (int p = 0; p < c.in_phases; ++p)
              for (int u = 0; u < c.kernel; ++u)
                for (int v = 0; v < c.kernel; ++v) {
                  const int r = i * c.stride - c.padding + u, s = j * c.stride - c.padding + v;
                  if (r < 0 || r >= c.height || s < 0 || s >= c.width) continue;
                  const float* at = &x[((static_cast<size_t>(b) * c.height * down + r * down + p / 2) * c.width * down +
                                        s * down + p % 2) *
                                       c.in];
                  for (int q = 0; q < c.in; ++q) {
                    const size_t tap = (static_cast<size_t>(o * c.out + k) * c.in_phases + p) * c.in + q;
                    sum += double{at[q]} * w[(tap * c.kernel + u) * c.kernel + v];
                  }
                }
            row[k] = c.activation == ccm::kLeaky && sum < 0 ? 0.25 * sum : sum;
          }
          for (int k = 0; k < c.out; ++k) {
            double norm = beta[k], value = row[k];
            for (int q = 0; q < c.out; ++q) norm += double{gamma[q * c.out + k]} * row[q] * row[q];
            if (c.activation == ccm::kGdn) value /= std::sqrt(norm);
            if (c.activation == ccm::kInverseGdn) value *= std::sqrt(norm);
            const size_t at =
                ((static_cast<size_t>(b) * oh * up + i * up + o / 2) * ow * up + j * up + o % 2) * c.out + k;
            y[at] = static_cast<float>(value + (c.residual ? residual[at] : 0));
          }
        }
  return y;
}

// far: relative error, squared.
bool near(const Floats& found, const Floats& want, double far = 1e-10) {
  double error = 0, size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += (found[i] - want[i]) * (found[i] - want[i]);
    size += want[i] * want[i];
  }
  return error <= far * size;  // not for NaN
}

bool check(const ccm::TransformKernels& kernels, const Case& c, bool winograd, bool int16, int threads) {
  const int oh = (c.height + 2 * c.padding - c.kernel) / c.stride + 1;
  const int ow = (c.width + 2 * c.padding - c.kernel) / c.stride + 1;
  const Floats x = draw(int64_t{c.batch} * c.height * c.width * c.in_phases * c.in);
  Floats w = draw(int64_t{c.out_phases} * c.out * c.in_phases * c.in * c.kernel * c.kernel);
  if (c.in_phases == 4)  // a phase without some of its taps
    for (size_t i = 2; i < w.size(); i += 3)
      if (i / 9 / c.in % 2) w[i] = 0;
  const Floats bias = draw(c.out_phases * c.out), gamma = draw(int64_t{c.out} * c.out, 0), beta = draw(c.out, 1, 2);
  const Floats residual = draw(int64_t{c.batch} * oh * ow * c.out_phases * c.out);
  const bool gdn = c.activation == ccm::kGdn || c.activation == ccm::kInverseGdn;
  if (int16 && gdn && c.out % 8) return true;  // none such
  Floats y(residual.size()), packed;
  Floats panels(int16 ? ccm::int16_floats(c.out, c.out) : ccm::panel_floats(c.out, c.out));
  if (!int16)
    ccm::pack_panels(gamma.data(), c.out, c.out, c.out, 1, panels.data());
  else if (gdn)
    ccm::pack_int16(gamma.data(), c.out, c.out, c.out, panels.data());
  const ccm::Epilogue after{
      bias.data(), c.activation, 0.25f, panels.data(), beta.data(), c.residual ? residual.data() : nullptr, int16};
  if (winograd) {
    const ccm::WinogradShape shape{c.in, c.out, c.in_phases, c.out_phases};
    const ccm::PackedFloats kernel = ccm::pack_winograd(shape, w.data(), int16);
    if (!ccm::winograd_fits(shape, kernel.data(), static_cast<int64_t>(kernel.size()), int16)) return false;
    (int16 ? kernels.winograd_int16 : kernels.winograd)(
        {shape, x.data(), kernel.data(), y.data(), c.batch, c.height, c.width, after}, threads);
  } else {
    const int taps = c.kernel * c.kernel, depth = int16 ? ccm::int16_depth(taps * c.in) : taps * c.in;
    Floats rows(static_cast<size_t>(depth) * c.out);  // [kernel][kernel][in][out]
    for (int k = 0; k < c.out; ++k)
      for (int q = 0; q < c.in; ++q)
        for (int t = 0; t < taps; ++t) rows[(t * c.in + q) * c.out + k] = w[(k * c.in + q) * taps + t];
    packed.resize(int16 ? ccm::int16_floats(depth, c.out) : ccm::panel_floats(depth, c.out));
    if (int16)
      ccm::pack_int16(rows.data(), depth, c.out, ccm::int16_chunk(depth), packed.data());
    else
      ccm::pack_panels(rows.data(), depth, c.out, c.out, 1, packed.data());
    (int16 ? kernels.direct_int16 : kernels.direct)({x.data(), packed.data(), y.data(), c.batch, c.height, c.width, oh,
                                                     ow, c.in, c.out, c.kernel, c.stride, c.padding, after},
                                                    threads);
  }
  // On noise, Winograd's way makes 20 times of every rounding (4 times on photographs).
  const double far = !int16 ? 1e-10 : winograd ? 1e-4 : 1e-6;
  return near(y, expected(c, oh, ow, x, w, bias, gamma, beta, residual), far);
}

// A 3x3 convolution of padding 1 and its gradients, for some output gradient, against their definitions.
bool check_gradients(const ccm::TransformKernels& kernels, const ccm::GradientKernels& gradients, const ccm::Conv3x3& c,
                     int threads) {
  const int h = static_cast<int>(c.height * c.stride), w = static_cast<int>(c.width * c.stride);
  const Floats x = draw(c.batch * h * w * c.in), weight = draw(int64_t{9} * c.in * c.out), bias = draw(c.out);
  const Floats dy = draw(c.batch * c.height * c.width * c.out);
  std::vector<double> y_sum(dy.size()), dx_sum(x.size()), dw_sum(weight.size());
  for (int b = 0; b < c.batch; ++b)
    for (int i = 0; i < c.height; ++i)
      for (int j = 0; j < c.width; ++j)
        for (int k = 0; k < c.out; ++k) {
          const size_t at = ((b * c.height + i) * c.width + j) * c.out + k;
          y_sum[at] = bias[k];
          for (int t = 0; t < 9; ++t) {
            const int r = i * c.stride + t / 3 - 1, s = j * c.stride + t % 3 - 1;
            if (r < 0 || r >= h || s < 0 || s >= w) continue;
            for (int q = 0; q < c.in; ++q) {
              const size_t from = (static_cast<size_t>(b * h + r) * w + s) * c.in + q;
              const size_t tap = (static_cast<size_t>(k) * 9 + t) * c.in + q;
              y_sum[at] += double{x[from]} * weight[tap];
              dx_sum[from] += double{dy[at]} * weight[tap];
              dw_sum[tap] += double{dy[at]} * x[from];
            }
          }
        }
  Floats y(dy.size()), dx(x.size()), dw(weight.size());
  for (const bool gradient : {false, true}) {
    Floats packed(ccm::packed_floats(c, gradient));
    gradients.pack(c, weight.data(), gradient, packed.data(), threads);
    if (!ccm::winograd_fits(c.shape(gradient), packed.data(), static_cast<int64_t>(packed.size()), false)) return false;
    const ccm::Epilogue after{gradient ? nullptr : bias.data()};
    kernels.winograd({c.shape(gradient), gradient ? dy.data() : x.data(), packed.data(),
                      gradient ? dx.data() : y.data(), c.batch, c.height, c.width, after},
                     threads);
  }
  gradients.weight_gradient(c, x.data(), dy.data(), dw.data(), threads);
  return near(y, Floats(y_sum.begin(), y_sum.end())) && near(dx, Floats(dx_sum.begin(), dx_sum.end())) &&
         near(dw, Floats(dw_sum.begin(), dw_sum.end()));
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  std::vector<const ccm::TransformKernels*> all{&ccm::plain_transform_kernels()};
  if (&ccm::transform_kernels() != all[0]) all.push_back(&ccm::transform_kernels());
  const Case winograds[] = {{2, 13, 20, 8, 5, 3, 1, 1, 1, 1, ccm::kLinear, true},
                            {1, 5, 9, 16, 24, 3, 1, 1, 4, 1, ccm::kGdn, true},
                            {1, 6, 7, 8, 17, 3, 1, 1, 1, 4, ccm::kInverseGdn, false},
                            {1, 12, 18, 24, 16, 3, 1, 1, 1, 1, ccm::kLeaky, true},
                            {1, 6, 7, 320, 16, 3, 1, 1, 1, 1, ccm::kLinear, false}};  // two chunks of integers
  const Case directs[] = {{2, 11, 9, 3, 20, 5, 2, 2, 1, 1, ccm::kGdn, false},
                          {1, 7, 5, 9, 4, 1, 1, 0, 1, 1, ccm::kLeaky, true},
                          {1, 1, 1, 2, 3, 3, 1, 1, 1, 1, ccm::kLinear, false}};
  // 5 * 3 * 7 tiles are two batches of them for the weight gradient.
  const ccm::Conv3x3 trained[] = {
      {8, 24, 1, 2, 7, 12}, {24, 8, 1, 5, 13, 37}, {16, 24, 2, 1, 6, 9}, {8, 8, 2, 3, 1, 1}};
  std::vector<const ccm::GradientKernels*> gradients{&ccm::plain_gradient_kernels()};
  if (all.size() > 1) gradients.push_back(&ccm::gradient_kernels());
  int bad = 0;
  for (const ccm::TransformKernels* kernels : all) {
    for (const bool int16 : {false, true}) {
      if (int16 && !kernels->winograd_int16) continue;
      for (const Case& c : winograds) bad += !check(*kernels, c, true, int16, threads);
      for (const Case& c : directs) bad += !check(*kernels, c, false, int16, threads);
    }
  }
  for (size_t k = 0; k < all.size(); ++k)
    for (const ccm::Conv3x3& c : trained) bad += !check_gradients(*all[k], *gradients[k], c, threads);
  if (bad) return std::printf("%d wrong\n", bad), 1;
  std::printf("ok %zu\n", all.size());
  return 0;
}
