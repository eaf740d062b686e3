// The picture filter (FORMAT.md, section 8) over bytes and buffers: part of the module ccm_fast._native. Binding only.
#include <pybind11/stl.h>

#include <string_view>
#include <vector>

#include "base/threads.h"
#include "codec/filter_fit.h"
#include "python/native.h"
#include "transforms/picture_filter.h"

namespace ccm_native {
namespace {

// Bounds of activity, and float32 weights [classes][colours][taps], of a filter chunk.
py::tuple read_filter(const py::bytes& chunk, int colours) {
  if (colours != 1 && colours != 3) throw py::value_error("colours must be 1 or 3");
  const std::string_view view = chunk;
  const ccm::FilterWeights weights(
      ccm::parse_filter({reinterpret_cast<const uint8_t*>(view.data()), view.size()}, colours));
  return py::make_tuple(weights.bounds, to_bytes(reinterpret_cast<const uint8_t*>(weights.values.data()),
                                                 weights.values.size() * sizeof(float)));
}

// The filter chunk, empty for none, that brings a decoded picture nearer to its original. levels: int16 [C, H, W] in
// units of kFilterUnits a level.
py::bytes fit_filter(const py::buffer& original, const py::buffer& levels, int quality_code, int threads) {
  const py::buffer_info pixels = original.request(), info = levels.request();
  const ccm::PixelSource source = pixels_of(pixels);
  const bool fits = info.format == "h" && is_contiguous(info) &&
                    info.shape == std::vector<py::ssize_t>{static_cast<py::ssize_t>(source.channels),
                                                           static_cast<py::ssize_t>(source.height),
                                                           static_cast<py::ssize_t>(source.width)};
  if (!fits) throw py::value_error("levels must be int16 [colours, height, width], contiguous");
  std::vector<uint8_t> chunk;
  {
    py::gil_scoped_release release;
    chunk = ccm::fitted_filter(source, static_cast<const int16_t*>(info.ptr), quality_code, threads);
  }
  return to_bytes(chunk.data(), chunk.size());
}

// A decoded picture behind the filter of a chunk: int16 [C, H, W], as fit_filter reads it.
py::bytes apply_filter(const py::buffer& levels, const py::bytes& chunk, int threads) {
  const py::buffer_info info = levels.request();
  if (info.format != "h" || !is_contiguous(info) || info.ndim != 3 || (info.shape[0] != 1 && info.shape[0] != 3))
    throw py::value_error("levels must be int16 [1 or 3, height, width], contiguous");
  const std::string_view view = chunk;
  const ccm::PictureFilter filter = ccm::parse_filter({reinterpret_cast<const uint8_t*>(view.data()), view.size()},
                                                      static_cast<int32_t>(info.shape[0]));
  std::vector<int16_t> filtered(static_cast<size_t>(info.size));
  {
    py::gil_scoped_release release;
    ccm::filter_levels(static_cast<const int16_t*>(info.ptr), info.shape[1], info.shape[2], filter, filtered.data(),
                       threads);
  }
  return to_bytes(reinterpret_cast<const uint8_t*>(filtered.data()), filtered.size() * sizeof(int16_t));
}

// fit_filter of pictures whose sums are known: float64 [B, 16, taps, taps + colours] (FilterStatistics).
std::vector<py::bytes> fit_filters(const py::buffer& sums, const std::vector<int>& quality_codes, int threads) {
  const py::buffer_info info = sums.request();
  const auto batch = static_cast<py::ssize_t>(quality_codes.size());
  const auto shaped = [&](int colours) {
    const py::ssize_t taps = colours * ccm::kFilterTaps;
    return info.shape == std::vector<py::ssize_t>{batch, ccm::kFilterBins, taps, taps + colours};
  };
  if (info.format != "d" || !is_contiguous(info) || !(shaped(1) || shaped(3)))
    throw py::value_error("sums must be float64 [B, 16, taps, taps + colours], contiguous");
  const int colours = shaped(1) ? 1 : 3;
  std::vector<std::vector<uint8_t>> chunks(static_cast<size_t>(batch));
  {
    py::gil_scoped_release release;
    ccm::parallel_for(threads, batch, [&](int64_t k) {
      const auto* own = static_cast<const double*>(info.ptr) + k * info.shape[1] * info.shape[2] * info.shape[3];
      chunks[static_cast<size_t>(k)] = ccm::fitted_filter(own, colours, quality_codes[static_cast<size_t>(k)]);
    });
  }
  std::vector<py::bytes> found;
  for (const auto& chunk : chunks) found.push_back(to_bytes(chunk.data(), chunk.size()));
  return found;
}

}  // namespace

void bind_filters(py::module_& m) {
  m.def("read_filter", &read_filter, py::arg("chunk"), py::arg("colours"));
  m.def("fit_filter", &fit_filter, py::arg("original"), py::arg("levels"), py::arg("quality_code"), py::arg("threads"));
  m.def("apply_filter", &apply_filter, py::arg("levels"), py::arg("chunk"), py::arg("threads"));
  m.def("fit_filters", &fit_filters, py::arg("sums"), py::arg("quality_codes"), py::arg("threads"));
}

}  // namespace ccm_native
