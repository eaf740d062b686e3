// What training adds to the transforms' float convolutions (transform.h): kernels packed anew at every step, and the
// gradients of a 3x3 convolution of padding 1 and stride 1 or 2, through the same Winograd F(6x6, 3x3).
//
// y = A^T [G w G^T * B^T x B] A, tile by tile, is linear in w and in x. So the gradient of w is G^T [.] G of products
// of B^T x B and A y' A^T, summed over the tiles; that of x is a convolution with the kernel turned around. With stride
// 2 everything happens after a pixel unshuffle of x into four phases, and taps that the kernel lacks are never touched.
//
// Planes are channels-last, [B][H][W][C], kernels [out][3][3][in]: torch's channels-last formats of both.
#pragma once
#include <cstdint>
#include <vector>

#include "transforms/transform.h"

namespace ccm {

struct Conv3x3 {
  int32_t in, out, stride;
  int64_t batch, height, width;  // of the result; x has stride times these sides
  int32_t phases() const { return stride * stride; }
  // The operator that computes it, or its gradient of x: phases of x go in, or come out.
  WinogradShape shape(bool gradient) const {
    return gradient ? WinogradShape{out, in, 1, phases()} : WinogradShape{in, out, phases(), 1};
  }
};

// Where a 3x3 convolution's taps lie in the kernel of one phase of x, in one dimension.
struct Taps {
  int32_t tap[3];  // index in the kernel of three, or -1: there is none
  Taps(int32_t stride, int32_t phase, bool gradient) {
    for (int32_t s = 0; s < 3; ++s) {
      const int32_t u = stride == 1 ? s : 2 * s + phase - 1;
      tap[gradient ? 2 - s : s] = u >= 0 && u < 3 ? u : -1;
    }
  }
  // Whether products at a point are not zero: the first sees the first tap alone, the last the last.
  bool at(int32_t point) const { return point == 0 ? tap[0] >= 0 : point < 7 || tap[2] >= 0; }
};

// Floats of a packed kernel, and the kernel in the form of pack_winograd.
int64_t packed_floats(const Conv3x3& c, bool gradient);

struct GradientKernels {
  void (*pack)(const Conv3x3&, const float* weight, bool gradient, float* packed, int threads);
  // dw [out][3][3][in] of x and y' [B][H][W][out].
  void (*weight_gradient)(const Conv3x3&, const float* x, const float* dy, float* dw, int threads);
};

const GradientKernels& plain_gradient_kernels();
#if defined(CCM_HAVE_FMA)
const GradientKernels& fma_gradient_kernels();
#endif
#if defined(CCM_HAVE_FMA512VNNI)
const GradientKernels& fma512vnni_gradient_kernels();
#endif

// Of transform_isa().
const GradientKernels& gradient_kernels();

}  // namespace ccm
