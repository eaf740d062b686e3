// C functions over the emulated CUDA engine, for ctypes (tests/emu/engine.py). 0, or -1 and a message in
// ccm_emu_error().
#include "emu_engine.h"

namespace {

std::string message;

template <class F>
int64_t guarded(F f) {
  try {
    message.clear();
    return f();
  } catch (const std::exception& e) {
    message = e.what();
    return -1;
  }
}

emu_engine::Engine engine(const void* model, const int32_t* options) {
  return {*static_cast<const ccm::DeviceModel*>(model), {options[0], options[1], options[2], options[3]}};
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API const char* ccm_emu_error() { return message.c_str(); }

// Returns the size; writes the model if it fits.
API int64_t ccm_emu_pack(const uint8_t* plan, int64_t size, uint8_t* out, int64_t capacity) {
  return guarded([&] {
    const std::vector<uint8_t> model = emu_engine::pack(plan, static_cast<size_t>(size));
    const auto bytes = static_cast<int64_t>(model.size());
    if (bytes <= capacity) std::memcpy(out, model.data(), model.size());
    return bytes;
  });
}

// options: threads, blocks, shared, crew
API int64_t ccm_emu_decode_z(const void* model, const int32_t* options, const uint8_t* data, int64_t size,
                             const int64_t* segments, int batch, int hz, int wz, int16_t* z, int32_t* status) {
  return guarded(
      [&] { return engine(model, options).decode_z(data, size, segments, batch, hz, wz, z, status), int64_t{0}; });
}

API int64_t ccm_emu_hyper(const void* model, const int32_t* options, const int16_t* z, int batch, int h, int w,
                          uint8_t* psi) {
  return guarded([&] { return engine(model, options).hyper(z, batch, h, w, psi), int64_t{0}; });
}

API int64_t ccm_emu_decode_y(const void* model, const int32_t* options, const uint8_t* psi, const uint8_t* data,
                             int64_t size, const int64_t* segments, int batch, int h, int w, int16_t* y,
                             int32_t* status, const float* shifts, int reach, float* restored) {
  return guarded([&] {
    engine(model, options).decode_y(psi, data, size, segments, batch, h, w, y, status, {shifts, reach, restored});
    return int64_t{0};
  });
}

// Bytes of stream s lie from s * capacity on.
API int64_t ccm_emu_stream_capacity(int64_t symbols) { return ccm::stream_capacity(symbols); }

API int64_t ccm_emu_encode_y(const void* model, const int32_t* options, const uint8_t* psi, const void* y, int batch,
                             int h, int w, int lanes, int16_t* y_hat, uint8_t* data, int64_t capacity,
                             int64_t* segments, int32_t* status) {
  return guarded([&] {
    engine(model, options).encode_y(psi, y, batch, h, w, lanes, y_hat, {data, capacity, segments, status});
    return int64_t{0};
  });
}

API int64_t ccm_emu_encode_z(const void* model, const int32_t* options, const int16_t* z, int batch, int hz, int wz,
                             int lanes, uint8_t* data, int64_t capacity, int64_t* segments, int32_t* status) {
  return guarded([&] {
    engine(model, options).encode_z(z, batch, hz, wz, lanes, {data, capacity, segments, status});
    return int64_t{0};
  });
}
