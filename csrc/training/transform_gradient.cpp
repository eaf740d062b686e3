#include "training/transform_gradient.h"

namespace ccm {

int64_t packed_floats(const Conv3x3& c, bool gradient) {
  const WinogradShape s = c.shape(gradient);
  int64_t blocks = 0;
  for (int32_t q = 0; q < c.phases(); ++q) {
    const Taps down(c.stride, q / 2, gradient), across(c.stride, q % 2, gradient);
    for (int32_t p = 0; p < 64; ++p) blocks += down.at(p / 8) && across.at(p % 8);
  }
  return 64 * static_cast<int64_t>(s.out_phases) + blocks * panel_floats(s.in, s.out);
}

const GradientKernels& gradient_kernels() {
#if defined(CCM_HAVE_FMA512VNNI)
  if (transform_isa() == kFma512Vnni) return fma512vnni_gradient_kernels();
#endif
#if defined(CCM_HAVE_FMA)
  if (transform_isa() != kPlain) return fma_gradient_kernels();
#endif
  return plain_gradient_kernels();
}

}  // namespace ccm
