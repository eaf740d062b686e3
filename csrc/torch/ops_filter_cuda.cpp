// The picture filter on CUDA tensors; with CCM_EMU on CPU tensors through the emulator (see ops_cuda.cpp).
#if defined(CCM_WITH_CUDA) || defined(CCM_EMU)
#include "torch/ops_device.h"
#include "transforms/cuda/picture_filter_cuda.h"

namespace {

using namespace ccm_ops;

void picture_filter(Tensor pixels, Tensor filters, Tensor out) {
  check(kCuda ? pixels.is_cuda() : pixels.is_cpu(), "pixels are on another device");
  const bool floats = pixels.scalar_type() == ScalarType::Float;
  check(floats || pixels.scalar_type() == ScalarType::Short, "pixels must be float32 or int16");
  check(pixels.dim() == 4 && (pixels.size(1) == 1 || pixels.size(1) == 3),
        "pixels must be [B, 3, H, W] or [B, 1, H, W]");
  const int64_t batch = pixels.size(0), height = pixels.size(2), width = pixels.size(3);
  constexpr int64_t kMostSide = kMaxSide * 16, kMostPictures = 65535;
  check(batch <= kMostPictures && height <= kMostSide && width <= kMostSide, "too many or too large pictures");
  check_tensor(filters, ScalarType::Float, {batch, ccm::kFilterRecord}, "filters", kCuda);
  const bool bytes = out.scalar_type() == ScalarType::Byte;
  check_tensor(out, bytes ? ScalarType::Byte : ScalarType::Float, {batch, -1, height, width}, "out", kCuda);
  check(out.size(1) <= 3, "out must have at most three planes");
  check(pixels.get_device_index() == filters.get_device_index() && pixels.get_device_index() == out.get_device_index(),
        "pixels, filters and out must be on one device");
  const Device device(pixels);
  ccm::FilterArgs args{};
  args.pixels = pixels.data_ptr();
  args.floats = floats;
  args.planes = static_cast<int32_t>(pixels.size(1));
  args.picture_stride = pixels.stride(0);
  args.plane_stride = pixels.stride(1);
  args.row_stride = pixels.stride(2);
  args.column_stride = pixels.stride(3);
  args.filters = data<float>(filters);
  args.out = out.data_ptr();
  args.bytes = bytes;
  args.out_planes = static_cast<int32_t>(out.size(1));
  args.batch = static_cast<int32_t>(batch);
  args.height = static_cast<int32_t>(height);
  args.width = static_cast<int32_t>(width);
  check_cuda(ccm::launch_picture_filter(args, device.stream));
}

}  // namespace

#ifdef CCM_EMU
STABLE_TORCH_LIBRARY_FRAGMENT(ccm_fast_emu, m) {
  m.def("picture_filter(Tensor pixels, Tensor filters, Tensor(a!) out) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(ccm_fast_emu, CPU, m) { m.impl("picture_filter", TORCH_BOX(&picture_filter)); }
#else
STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CUDA, m) { m.impl("picture_filter", TORCH_BOX(&picture_filter)); }
#endif
#endif
