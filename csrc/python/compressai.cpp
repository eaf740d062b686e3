// CompressAI's stream decoder over NumPy arrays; binding only, the decoder is csrc/compat/compressai_rans.cpp.
#include "python/compressai.h"

#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "compat/compressai_rans.h"

namespace py = pybind11;

namespace {

using Array = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

ccm::CompressaiRows make_rows(const Array& cdf, const Array& size, const Array& offset) {
  if (cdf.ndim() != 2 || size.ndim() != 1 || offset.ndim() != 1 || cdf.shape(0) != size.shape(0))
    throw py::value_error("cdf must have the shape [rows, width], size and offset [rows]");
  ccm::CompressaiRows rows{static_cast<int32_t>(cdf.shape(1)),
                           {cdf.data(), cdf.data() + cdf.size()},
                           {size.data(), size.data() + size.size()},
                           {offset.data(), offset.data() + offset.size()}};
  if (const char* problem = rows.problem()) throw py::value_error(problem);
  return rows;
}

// Holds its bytes.
struct Decoder {
  Decoder(const ccm::CompressaiRows& rows_, const std::string& data_)
      : rows(rows_), data(data_), decoder(reinterpret_cast<const uint8_t*>(data.data()), data.size()) {}

  Array decode(const Array& row) {
    for (py::ssize_t i = 0; i < row.size(); ++i)
      if (row.data()[i] < 0 || row.data()[i] >= rows.count()) throw py::index_error("no such row");
    Array out(row.size());
    decoder.decode(rows, row.data(), static_cast<size_t>(row.size()), out.mutable_data());
    return out;
  }

  const ccm::CompressaiRows& rows;
  std::string data;
  ccm::CompressaiDecoder decoder;
};

}  // namespace

void bind_compressai(py::module_& m) {
  py::class_<ccm::CompressaiRows>(m, "CompressaiRows", "CDF rows of one of CompressAI's entropy models.")
      .def(py::init(&make_rows), py::arg("cdf"), py::arg("size"), py::arg("offset"));
  py::class_<Decoder>(m, "CompressaiDecoder", "Decodes one of CompressAI's strings, piece by piece.")
      .def(py::init<const ccm::CompressaiRows&, const std::string&>(), py::arg("rows"), py::arg("data"),
           py::keep_alive<1, 2>())
      .def("decode", &Decoder::decode, py::arg("row"), "The next symbols, int32, of the rows `row` (flattened).")
      .def(
          "failed", [](const Decoder& d) { return d.decoder.failed(); },
          "Whether the string is known to be bad: what comes next are zeros.")
      .def(
          "finish", [](const Decoder& d) { return static_cast<int>(d.decoder.finish()); },
          "0: decoded to its end; 1: truncated; 2: damaged, or decoded with other rows than it was written with.");
}
