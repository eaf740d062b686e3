#include "transforms/transform.h"

#include <cmath>
#include <vector>

#include "base/cpu.h"

namespace ccm {
namespace {

#if defined(CCM_HAVE_FMA)

// Whether integer products are right on this machine, by a 1x1 convolution whose sums take all of their 32 bits.
bool self_check(const TransformKernels& k) {
  constexpr int kIn = 64, kOut = 48, kPixels = 7;
  std::vector<float> x(kPixels * kIn), w(kIn * kOut), bias(kOut), packed(int16_floats(kIn, kOut)), y(kPixels * kOut);
  uint32_t state = 1;
  const auto draw = [&] { return static_cast<float>((state = state * 1664525 + 1013904223) >> 16) / 32768 - 1; };
  for (float& v : w) v = draw();
  for (int p = 0; p < kPixels; ++p)  // multiples of columns, and others
    for (int c = 0; c < kIn; ++c) x[p * kIn + c] = p % 2 ? draw() : w[c * kOut + p];
  pack_int16(w.data(), kIn, kOut, int16_chunk(kIn), packed.data());
  const Epilogue after{bias.data()};
  k.direct_int16({x.data(), packed.data(), y.data(), 1, 1, kPixels, 1, kPixels, kIn, kOut, 1, 1, 0, after}, 1);
  for (int p = 0; p < kPixels; ++p)
    for (int o = 0; o < kOut; ++o) {
      double sum = 0;
      for (int c = 0; c < kIn; ++c) sum += double{x[p * kIn + c]} * w[c * kOut + o];
      if (!(std::abs(sum - y[p * kOut + o]) < 0.02)) return false;
    }
  return true;
}

TransformIsa best() {
  const uint32_t allowed = allowed_features();
  const auto may = [allowed](uint32_t features) { return (allowed & features) == features; };
  if (!may(kCpuAvx2 | kCpuFma)) return kPlain;
#if defined(CCM_HAVE_FMA512VNNI)
  if (may(kCpuAvx512 | kCpuAvx512Vnni) && self_check(fma512vnni_transform_kernels())) return kFma512Vnni;
#endif
#if defined(CCM_HAVE_FMAVNNI)
  if (may(kCpuAvxVnni) && self_check(fmavnni_transform_kernels())) return kFmaVnni;
#endif
  return kFma;
}

#else

TransformIsa best() { return kPlain; }

#endif

}  // namespace

TransformIsa transform_isa() {
  static const TransformIsa isa = best();
  return isa;
}

const TransformKernels& transform_kernels() {
  switch (transform_isa()) {
#if defined(CCM_HAVE_FMA512VNNI)
    case kFma512Vnni:
      return fma512vnni_transform_kernels();
#endif
#if defined(CCM_HAVE_FMAVNNI)
    case kFmaVnni:
      return fmavnni_transform_kernels();
#endif
#if defined(CCM_HAVE_FMA)
    case kFma:
      return fma_transform_kernels();
#endif
    default:
      return plain_transform_kernels();
  }
}

}  // namespace ccm
