// What the files of the pybind11 module ccm_fast._native share.
#pragma once
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>

#include "transforms/analysis.h"

namespace ccm_native {

namespace py = pybind11;

inline py::bytes to_bytes(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// Whether a buffer's elements are unsigned, of one or two bytes in this machine's order.
inline bool is_samples(const py::buffer_info& info, int bits) {
  return info.itemsize == bits / 8 && info.format == (bits == 8 ? "B" : "H");
}

inline bool is_contiguous(const py::buffer_info& info) {
  if (info.size == 0) return true;
  py::ssize_t step = info.itemsize;
  for (py::ssize_t k = info.ndim - 1; k >= 0; --k) {
    if (info.shape[k] != 1 && info.strides[k] != step) return false;
    step *= info.shape[k];
  }
  return true;
}

// A picture's pixels: uint8 or uint16 [H, W, 3] or [H, W], contiguous, of a buffer that outlives what is returned.
inline ccm::PixelSource pixels_of(const py::buffer_info& pixels) {
  const int32_t bits = pixels.itemsize == 1 ? 8 : 16;
  if (!is_samples(pixels, bits)) throw py::value_error("pixels must be uint8 or uint16");
  if ((pixels.ndim != 3 || pixels.shape[2] != 3) && pixels.ndim != 2)
    throw py::value_error("pixels must be [H, W, 3] or [H, W]");
  if (!is_contiguous(pixels)) throw py::value_error("pixels must be contiguous");
  const int32_t channels = pixels.ndim == 3 ? 3 : 1;
  return {pixels.ptr, pixels.shape[1] * channels * bits / 8, pixels.shape[1], pixels.shape[0], channels, bits};
}

// The picture filter's functions.
void bind_filters(py::module_& m);

}  // namespace ccm_native
