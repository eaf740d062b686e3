// The rANS coder over bytes and NumPy arrays, for those who want it without torch. Binding only: it converts and checks
// arguments; the coder is csrc/entropy/cpu/rans_cpu.cpp. The interpreter lock is released while it works.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/crc32c.h"
#include "entropy/cpu/rans_cpu.h"
#include "format/symbol.h"
#include "model/rows.h"
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

[[noreturn]] void bad_row(size_t row, const ccm::OwnedRows& tables) {
  throw py::index_error("row " + std::to_string(row) + " of " + std::to_string(tables.info.size()));
}

// Rows at a time that decode() copies before it looks at them (another thread may write to the caller's array): a
// multiple of the lanes, in which a step may be divided, and small enough for the first-level cache.
constexpr size_t kBlock = 4096;

// Step sizes: as given, or one step of everything.
std::vector<int32_t> step_sizes(const py::object& steps, size_t n) {
  if (n > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    throw py::value_error("at most 2^31 - 1 symbols can be one stream");
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

// As encode_stream and StreamDecoder take it.
int32_t code_of(int lanes, int version, bool may_choose) {
  if (version != 1 && version != 2) throw py::value_error("version must be 1 or 2");
  const int32_t code = lanes + (version == 2 ? ccm::kVersion2 : 0);
  if (!(may_choose && lanes == 0) && (lanes < 1 || lanes > ccm::kMostLanes || !ccm::valid_streams(code)))
    throw py::value_error("lanes must be 1, 2, 4, 8, 16 or 32, in version 2 also 64 or 128; 0 lets an encoder choose");
  return code;
}

// By their holder: the object of Tables.__new__(Tables), which nothing has initialized, has none and is refused.
using Tables = std::shared_ptr<ccm::OwnedRows>;

py::tuple encode(const Tables& held, const Array<int32_t>& symbols, const Array<uint16_t>& rows,
                 const py::object& steps, int lanes, int version) {
  const ccm::OwnedRows& tables = *held;
  if (symbols.ndim() != 1 || rows.ndim() != 1) throw py::value_error("symbols and rows must be one-dimensional");
  const size_t count = static_cast<size_t>(symbols.size());
  if (count != static_cast<size_t>(rows.size())) throw py::value_error("symbols and rows differ in length");
  const int32_t code = code_of(lanes, version, true);
  std::vector<ccm::Coded> coded(count);
  for (size_t i = 0; i < count; ++i) {
    const int32_t value = symbols.data()[i];
    const uint16_t row = rows.data()[i];
    if (row >= tables.info.size()) bad_row(row, tables);
    if (!ccm::symbol_fits(value)) throw py::value_error("symbols must lie in -32767..32767");
    coded[i] = {value, row};
  }
  const std::vector<int32_t> sizes = step_sizes(steps, count);
  int32_t used = 0;
  std::vector<uint8_t> bytes;
  {
    py::gil_scoped_release release;
    bytes = ccm::encode_stream(tables.view(), coded, sizes, code, &used);
  }
  return py::make_tuple(py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
                        ccm::stream_kind(used).lanes);
}

py::tuple decode(const Tables& held, const py::bytes& data, int lanes, const Array<uint16_t>& rows,
                 const py::object& steps, std::optional<bool> vectors, int version) {
  const ccm::OwnedRows& tables = *held;
  if (rows.ndim() != 1) throw py::value_error("rows must be one-dimensional");
  const int32_t code = code_of(lanes, version, false);
  const size_t count = static_cast<size_t>(rows.size());
  const std::vector<int32_t> sizes = step_sizes(steps, count);
  const std::string_view view = data;
  Array<int16_t> out(static_cast<py::ssize_t>(count));
  const uint16_t* from = rows.data();
  int16_t* to = out.mutable_data();
  if (count && tables.info.empty()) bad_row(rows.data()[0], tables);
  const uint16_t last = static_cast<uint16_t>(std::min<size_t>(tables.info.size(), 65536) - 1);
  size_t bad = 0;  // a row that is not there
  ccm::Status status;
  {
    py::gil_scoped_release release;
    ccm::StreamDecoder decoder(reinterpret_cast<const uint8_t*>(view.data()), view.size(), code,
                               vectors.value_or(ccm::vectors_allowed()) ? ccm::Vectors::kBest : ccm::Vectors::kNone);
    uint16_t block[kBlock];
    size_t at = 0;
    bool good = true;
    for (size_t s = 0; s < sizes.size() && good; ++s) {
      for (size_t left = static_cast<size_t>(sizes[s]); left && good;) {
        const size_t n = std::min(left, kBlock);
        uint16_t over = 0;
        for (size_t i = 0; i < n; ++i) {  // written for vectors of 16-bit numbers
          block[i] = from[at + i];
          over = static_cast<uint16_t>(over | (block[i] > last));
        }
        if (over) {
          bad = *std::max_element(block, block + n);
          good = false;
          break;
        }
        good = decoder.decode(tables.view(), block, nullptr, static_cast<int32_t>(n), to + at);
        if (good) at += n;
        left -= n;
      }
      decoder.end_step();
    }
    std::fill(to + at, to + count, int16_t{0});
    status = decoder.finish();
    if (status == ccm::kOk && at != count) status = ccm::kDamaged;
  }
  if (bad) bad_row(bad, tables);
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
  py::class_<ccm::OwnedRows, Tables>(m, "Tables", "CDF rows, laid out for coding.")
      .def(py::init([](const Array<int32_t>& lo, const Array<int32_t>& n, const Array<uint16_t>& cdf) {
             try {
               return ccm::build_rows(values<int32_t>(lo, "lo"), values<int32_t>(n, "n"), values<uint16_t>(cdf, "cdf"));
             } catch (const ccm::PlanError& e) {
               throw py::value_error(e.what());
             }
           }),
           py::arg("lo"), py::arg("n"), py::arg("cdf"))
      .def("__len__", [](const Tables& t) { return t->info.size(); });
  m.def("encode", &encode, py::arg("tables"), py::arg("symbols"), py::arg("rows"), py::arg("steps") = py::none(),
        py::arg("lanes") = 0, py::arg("version") = 1);
  m.def("decode", &decode, py::arg("tables"), py::arg("data"), py::arg("lanes"), py::arg("rows"),
        py::arg("steps") = py::none(), py::arg("vectors") = py::none(), py::arg("version") = 1,
        "vectors: whether to use instructions for several symbols at once; None: unless CCM_FAST_ISA is \"scalar\".");
  bind_compressai(m);
}
