// The rANS coder over bytes and NumPy arrays, for those who want it without torch. Binding only: it converts and checks
// arguments; the coder is csrc/cpu/rans_cpu.cpp. The interpreter lock is released while it works.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/rans_cpu.h"
#include "cpu/rows.h"
#include "python/compressai.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
std::vector<T> values(const Array<T>& a, const char* name) {
  if (a.ndim() != 1) throw py::value_error(std::string(name) + " must be one-dimensional");
  return std::vector<T>(a.data(), a.data() + a.size());
}

void check_rows(const std::vector<uint16_t>& rows, const ccm::OwnedRows& tables) {
  for (uint16_t r : rows)
    if (r >= tables.info.size())
      throw py::index_error("row " + std::to_string(r) + " of " + std::to_string(tables.info.size()));
}

// Step sizes: as given, or one step of everything.
std::vector<int32_t> step_sizes(const py::object& steps, size_t n) {
  if (steps.is_none()) return {static_cast<int32_t>(n)};
  std::vector<int32_t> sizes = values<int32_t>(py::cast<Array<int32_t>>(steps), "steps");
  size_t sum = 0;
  for (int32_t s : sizes) {
    if (s < 0) throw py::value_error("steps must not be negative");
    sum += static_cast<size_t>(s);
  }
  if (sum != n) throw py::value_error("steps must add up to the number of symbols");
  return sizes;
}

py::tuple encode(const ccm::OwnedRows& tables, const Array<int32_t>& symbols, const Array<uint16_t>& rows,
                 const py::object& steps, int lanes) {
  const std::vector<int32_t> v = values<int32_t>(symbols, "symbols");
  const std::vector<uint16_t> r = values<uint16_t>(rows, "rows");
  if (v.size() != r.size()) throw py::value_error("symbols and rows differ in length");
  if (lanes != 0 && !ccm::valid_lanes(lanes)) throw py::value_error("lanes must be 0 (chosen), 1, 2, 4, 8, 16 or 32");
  check_rows(r, tables);
  std::vector<ccm::Coded> coded(v.size());
  for (size_t i = 0; i < v.size(); ++i) {
    if (v[i] < -32767 || v[i] > 32767) throw py::value_error("symbols must lie in -32767..32767");
    coded[i] = {v[i], r[i]};
  }
  const std::vector<int32_t> sizes = step_sizes(steps, v.size());
  int32_t used = 0;
  std::vector<uint8_t> bytes;
  {
    py::gil_scoped_release release;
    bytes = ccm::encode_stream(tables.view(), coded, sizes, lanes, &used);
  }
  return py::make_tuple(py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()), used);
}

py::tuple decode(const ccm::OwnedRows& tables, const py::bytes& data, int lanes, const Array<uint16_t>& rows,
                 const py::object& steps, bool vectors) {
  const std::vector<uint16_t> r = values<uint16_t>(rows, "rows");
  if (!ccm::valid_lanes(lanes)) throw py::value_error("lanes must be 1, 2, 4, 8, 16 or 32");
  check_rows(r, tables);
  const std::vector<int32_t> sizes = step_sizes(steps, r.size());
  const std::string_view view = data;
  Array<int16_t> out(static_cast<py::ssize_t>(r.size()));
  int16_t* to = out.mutable_data();
  ccm::Status status;
  {
    py::gil_scoped_release release;
    ccm::StreamDecoder decoder(reinterpret_cast<const uint8_t*>(view.data()), view.size(), lanes, vectors);
    size_t at = 0;
    for (int32_t n : sizes) {
      if (!decoder.decode_step(tables.view(), r.data() + at, nullptr, n, to + at)) break;
      at += static_cast<size_t>(n);
    }
    std::fill(to + at, to + r.size(), int16_t{0});
    status = decoder.finish();
    if (status == ccm::kOk && at != r.size()) status = ccm::kDamaged;
  }
  return py::make_tuple(out, static_cast<int>(status));
}

}  // namespace

PYBIND11_MODULE(_rans, m) {
  m.doc() = "Native rANS coder of ccm_fast; ccm_fast.rans is its Python face.";
  m.def("version", [] { return CCM_VERSION; }, "Version of ccm_fast that this module was compiled from.");
  m.def(
      "crc32c",
      [](const py::bytes& data, uint32_t crc) {
        const std::string_view view = data;
        py::gil_scoped_release release;
        return ccm::crc32c(reinterpret_cast<const uint8_t*>(view.data()), view.size(), crc);
      },
      py::arg("data"), py::arg("crc") = 0, "CRC-32C (Castagnoli) of bytes, continuing from `crc`.");
  py::class_<ccm::OwnedRows>(m, "Tables", "CDF rows, laid out for coding.")
      .def(py::init([](const Array<int32_t>& lo, const Array<int32_t>& n, const Array<uint16_t>& cdf) {
             try {
               return ccm::build_rows(values<int32_t>(lo, "lo"), values<int32_t>(n, "n"), values<uint16_t>(cdf, "cdf"));
             } catch (const ccm::PlanError& e) {
               throw py::value_error(e.what());
             }
           }),
           py::arg("lo"), py::arg("n"), py::arg("cdf"))
      .def("__len__", [](const ccm::OwnedRows& t) { return t.info.size(); });
  m.def("encode", &encode, py::arg("tables"), py::arg("symbols"), py::arg("rows"), py::arg("steps") = py::none(),
        py::arg("lanes") = 0);
  m.def("decode", &decode, py::arg("tables"), py::arg("data"), py::arg("lanes"), py::arg("rows"),
        py::arg("steps") = py::none(), py::arg("vectors") = true);
  bind_compressai(m);
}
