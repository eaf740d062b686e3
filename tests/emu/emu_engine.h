// The CUDA engine on the emulator, with memory of its own: what emu_api.cpp (for Python) and emu_check.cpp (for
// sanitizers) share. Every buffer is an allocation of exactly its size, filled with garbage.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "entropy/cpu/pack.h"
#include "entropy/cuda/engine_cuda.h"
#include "entropy/cuda/model_cuda.h"

namespace emu_engine {

inline void require(cudaError_t e) {
  if (e != cudaSuccess) throw std::runtime_error(std::string("launch: ") + emu::last_error());
}

// Not a std::vector of zeros: kernels must not live on what nobody wrote.
template <class T>
std::vector<T> garbage(int64_t count) {
  std::vector<T> v(static_cast<size_t>(count));
  std::memset(static_cast<void*>(v.data()), 0xA5, v.size() * sizeof(T));
  return v;
}

inline std::vector<uint8_t> pack(const uint8_t* plan, size_t size) {
  const std::vector<uint8_t> packed = ccm::pack_plan(plan, size, ccm::cuda_layout());
  return ccm::to_device(*reinterpret_cast<const ccm::PackedModel*>(packed.data()));
}

struct Engine {
  const ccm::DeviceModel& m;
  ccm::LaunchOptions options;

  void decode_z(const uint8_t* data, int64_t size, const int64_t* segments, int batch, int hz, int wz, int16_t* z,
                int32_t* status) const {
    require(ccm::decode_z(&m, data, size, segments, batch, hz, wz, z, status, options, nullptr));
  }
  void hyper(const int16_t* z, int batch, int h, int w, uint8_t* psi) const {
    auto scratch = garbage<uint8_t>(ccm::hyper_scratch(m, batch, (h + 3) / 4, (w + 3) / 4));
    require(ccm::hyper(m, &m, z, batch, h, w, psi, scratch.data(), options, nullptr));
  }
  void decode_y(const uint8_t* psi, const uint8_t* data, int64_t size, const int64_t* segments, int batch, int h, int w,
                int16_t* y, int32_t* status, const ccm::Restoring& restoring = {}) const {
    const std::vector<int32_t> order = ccm::build_order(m, h, w);
    auto scratch = garbage<uint8_t>(ccm::latents_scratch(m, batch, h, w, options));
    require(ccm::decode_y(m, &m, ccm::view_order(order.data(), order.data()), psi, data, size, segments, batch, h, w, y,
                          status, restoring, scratch.data(), options, nullptr));
  }
  void encode_y(const uint8_t* psi, const void* y, int batch, int h, int w, int lanes, int16_t* y_hat,
                const ccm::EncodeBuffers& out) const {
    const std::vector<int32_t> order = ccm::build_order(m, h, w);
    auto scratch = garbage<uint8_t>(ccm::encode_y_scratch(m, batch, h, w, options));
    require(ccm::encode_y(m, &m, ccm::view_order(order.data(), order.data()), psi, y, batch, h, w, lanes, y_hat, out,
                          scratch.data(), options, nullptr));
  }
  void encode_z(const int16_t* z, int batch, int hz, int wz, int lanes, const ccm::EncodeBuffers& out) const {
    require(ccm::encode_z(&m, z, batch, hz, wz, lanes, out, nullptr));
  }
};

}  // namespace emu_engine
