// A tensor's GPU, its stream, and errors: what the operators on CUDA tensors share. Only for csrc/torch/*_cuda.cpp.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include "entropy/cuda/device.h"
#include "torch/ops_common.h"

#ifndef CCM_EMU
#include <dlfcn.h>
#endif

namespace ccm_ops {

#ifdef CCM_EMU
constexpr bool kCuda = false;
struct Device {
  explicit Device(const Tensor&) {}
  int32_t index = 0;
  cudaStream_t stream = nullptr;
};
inline void check_cuda(cudaError_t e) { check(e == cudaSuccess, std::string("emulator: ") + emu::last_error()); }
#else
constexpr bool kCuda = true;

inline void check_cuda(cudaError_t e) { check(e == cudaSuccess, std::string("CUDA: ") + cudaGetErrorString(e)); }

// torch's current stream. The function is in libtorch_cuda, which this library does not link, because it has to load in
// CPU builds of torch too; whoever has a CUDA tensor has it loaded.
inline cudaStream_t current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  void* stream = nullptr;
  check(get && get(device, &stream) == AOTI_TORCH_SUCCESS, "this build of torch does not tell its current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

struct Device {
  explicit Device(const Tensor& t) : index(t.get_device_index()), guard(index), stream(current_stream(index)) {}
  int32_t index;
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
};
#endif

}  // namespace ccm_ops
