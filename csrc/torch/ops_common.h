// Argument checks that the operators of all devices share. Only for csrc/torch.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "format/rans.h"

namespace ccm_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The largest plane side, in latents: 2^20 pixels / 16.
constexpr int64_t kMaxSide = 1 << 16;

inline void check(bool ok, const std::string& message) {
  if (!ok) throw std::runtime_error("ccm_fast: " + message);
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// A contiguous tensor of the given type and shape (-1: any size there) on the CPU, or on a GPU if `cuda`.
inline void check_tensor(const Tensor& t, ScalarType type, const std::vector<int64_t>& shape, const std::string& name,
                         bool cuda = false) {
  check(cuda ? t.is_cuda() : t.is_cpu(), name + (cuda ? " must be a CUDA tensor" : " must be a CPU tensor"));
  check(t.scalar_type() == type, name + " has the wrong dtype");
  check(t.is_contiguous(), name + " must be contiguous");
  check(t.dim() == static_cast<int64_t>(shape.size()), name + " has the wrong number of dimensions");
  for (size_t i = 0; i < shape.size(); ++i)
    check(shape[i] < 0 ? t.size(i) > 0 : t.size(i) == shape[i],
          name + " has size " + std::to_string(t.size(i)) + " in dimension " + std::to_string(i));
}

// The values of a tensor that may be left out, or null.
inline const float* optional_data(const std::optional<Tensor>& t, const std::vector<int64_t>& shape,
                                  const std::string& name) {
  if (!t) return nullptr;
  check_tensor(*t, ScalarType::Float, shape, name);
  return data<float>(*t);
}

inline int thread_count(int64_t threads) {
  check(threads >= 1 && threads <= 1024, "threads must lie in 1..1024");
  return static_cast<int>(threads);
}

// A step may hold a whole plane, and its symbols are counted in 32 bits.
inline void check_plane(int64_t h, int64_t w, int64_t channels) {
  check(h >= 1 && w >= 1 && h <= kMaxSide && w <= kMaxSide && h * w * channels < (int64_t{1} << 31),
        "a plane of " + std::to_string(h) + "x" + std::to_string(w) + " latents cannot be coded as one image");
}

// any: of version 2 too, see kVersion2.
inline void check_lanes(int64_t lanes, bool any = false) {
  check(lanes == 0 || ccm::valid_lanes(lanes) || (any && (lanes == ccm::kVersion2 || ccm::valid_streams(lanes))),
        "lanes must be 0 (chosen), 1, 2, 4, 8, 16 or 32, or in streams of version 2 also 64 or 128");
}

}  // namespace ccm_ops
