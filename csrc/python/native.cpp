// The codec over bytes and buffers, without torch and NumPy: ccm_fast/native.py is its Python face. Binding only. The
// interpreter lock is released while it works; files are bytes, which nobody can change meanwhile.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/memory.h"
#include "base/threads.h"
#include "codec/codec.h"
#include "entropy/cpu/kernels.h"
#include "python/native.h"
#include "transforms/transform.h"

namespace py = pybind11;

namespace {

using ccm_native::bind_filters;
using ccm_native::is_contiguous;
using ccm_native::is_samples;
using ccm_native::pixels_of;
using ccm_native::to_bytes;

using ccm::Error;
using ccm::ErrorCode;

// A parsed file, which keeps its bytes.
struct File {
  File(py::bytes data, int64_t max_pixels) : data(std::move(data)), max_pixels(max_pixels) {
    const std::string_view view = this->data;
    container = ccm::parse_container({reinterpret_cast<const uint8_t*>(view.data()), view.size()});
    head = ccm::peek_packet(container.packet, max_pixels);
    filter = ccm::filter_of(container, head.grey);
  }
  const py::bytes data;
  const int64_t max_pixels;
  ccm::Container container;
  ccm::PacketHead head;
  std::optional<ccm::PictureFilter> filter;
};

py::dict chunks(const File& file) {
  py::dict out;
  for (const ccm::Chunk& c : file.container.chunks)
    out[py::reinterpret_steal<py::object>(PyUnicode_FromOrdinal(c.kind))] = to_bytes(c.data.data, c.data.size);
  return out;
}

std::unique_ptr<ccm::Codec> open_codec(const std::string& path, int threads, bool float_transforms,
                                       const std::string& isa) {
  py::gil_scoped_release release;
  return std::make_unique<ccm::Codec>(ccm::map_file(path, ccm::kMaxWeightsBytes),
                                      ccm::CodecOptions{threads, float_transforms, isa.c_str()});
}

std::unique_ptr<ccm::Codec> open_bytes(const py::bytes& data, int threads, bool float_transforms,
                                       const std::string& isa) {
  const std::string_view view = data;
  py::gil_scoped_release release;
  return std::make_unique<ccm::Codec>(ccm::copy_of(reinterpret_cast<const uint8_t*>(view.data()), view.size()),
                                      ccm::CodecOptions{threads, float_transforms, isa.c_str()});
}

// What a long call asks: whether a signal's handler has raised (in the main thread alone, the only one that runs them),
// or the caller's function, if there is one, which is told the share that is done. It outlives what is returned.
ccm::InterruptScope::Asked asking(const py::object& progress) {
  return [&progress](double share) {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) return true;
    if (progress.is_none()) return false;
    try {
      progress(share);
    } catch (py::error_already_set& error) {
      error.restore();
      return true;
    }
    return false;
  };
}

// An array to be filled: a memoryview, as NumPy takes it without a copy and Pillow reads it without NumPy.
struct Array {
  // format: of the elements, "B", "H" or "h".
  Array(const std::vector<int64_t>& shape, const char* format) {
    int64_t bytes = *format == 'B' ? 1 : 2;
    for (const int64_t n : shape) bytes *= n;
    const auto memory = py::reinterpret_steal<py::object>(PyByteArray_FromStringAndSize(nullptr, bytes));
    if (!memory) throw py::error_already_set();
    data = PyByteArray_AS_STRING(memory.ptr());
    ccm::want_huge_pages(data, static_cast<size_t>(bytes));
    view = py::reinterpret_steal<py::object>(PyMemoryView_FromObject(memory.ptr()));
    if (!view) throw py::error_already_set();
    view = view.attr("cast")(format, shape);
  }

  void* data;
  py::object view;  // keeps the memory, whose size cannot change while a view is there
};

// One picture under way: arrays made with the lock, filled without it.
struct Decoding {
  ccm::Packet packet;
  std::unique_ptr<const Array> pixels, latents;
  ccm::PixelSink sink;
  ccm::DecodeTimes times;
};

// (x, y, width, height) of a picture, or none: the whole one.
using Rectangle = std::optional<std::array<int64_t, 4>>;

// What of a picture of width x height is meant.
ccm::Region region_of(const Rectangle& wanted, int64_t width, int64_t height) {
  if (!wanted) return {0, 0, width, height};
  const auto& [x, y, w, h] = *wanted;
  const ccm::Region region{x, y, w, h};
  ccm::check_region(region, width, height);
  return region;
}

// The sink's place in its picture.
void place(ccm::PixelSink& sink, const ccm::Region& region) {
  sink.width = region.width;
  sink.height = region.height;
  sink.left = region.x;
  sink.top = region.y;
}

Decoding prepare(const ccm::Codec& codec, const File& file, int bits, int groups, bool latents, int reduce,
                 const Rectangle& wanted) {
  Decoding d;
  d.packet = codec.parse(file.container.packet, file.max_pixels, groups);
  const int64_t height = (d.packet.height + reduce - 1) / reduce, width = (d.packet.width + reduce - 1) / reduce;
  const ccm::Region region = region_of(wanted, width, height);
  const int64_t channels = d.packet.grey ? 1 : 3;
  std::vector<int64_t> shape{region.height, region.width};
  if (!d.packet.grey) shape.push_back(channels);
  d.pixels = std::make_unique<const Array>(shape, bits == 8 ? "B" : "H");
  const int64_t h = d.packet.h(), w = d.packet.w(), m = codec.entropy_model().latent_channels;
  if (latents) d.latents = std::make_unique<const Array>(std::vector<int64_t>{h, w, m}, "h");
  d.sink = {
      d.pixels->data, region.width * channels * bits / 8, 0, 0, static_cast<int32_t>(channels), bits, d.packet.grey,
      reduce};
  place(d.sink, region);
  return d;
}

// Pixels, latents (or None) and seconds of every file. Fewer pictures than threads share those that are left over.
// groups: how many are read of each file; below 0: all. reduce: of the sides, 1, 2, 4 or 8; then without latents.
// regions: none, or for each file what of its reduced picture is wanted.
py::list decode(const ccm::Codec& codec, const std::vector<const File*>& files, int threads, int bits, int groups,
                bool wanted, const py::object& progress, int reduce, const std::vector<Rectangle>& regions) {
  if (threads < 1 || threads > 1024) throw py::value_error("threads must lie in 1..1024");
  if (bits != 8 && bits != 16) throw py::value_error("bits must be 8 or 16");
  if (reduce != 1 && reduce != 2 && reduce != 4 && reduce != 8) throw py::value_error("reduce must be 1, 2, 4 or 8");
  if (reduce > 1 && wanted) throw py::value_error("a reduced picture is decoded without latents");
  std::vector<Decoding> all;
  if (!regions.empty() && regions.size() != files.size())
    throw py::value_error("a region, or None, is needed for every file");
  for (size_t k = 0; k < files.size(); ++k)
    all.push_back(prepare(codec, *files[k], bits, groups, wanted, reduce, regions.empty() ? std::nullopt : regions[k]));
  std::vector<int16_t*> latents;
  for (Decoding& d : all) latents.push_back(d.latents ? static_cast<int16_t*>(d.latents->data) : nullptr);
  {
    py::gil_scoped_release release;
    const ccm::InterruptScope interruptible(asking(progress));
    ccm::side_by_side(threads, static_cast<int64_t>(all.size()), [&](int64_t k, int each) {
      const auto& filter = files[k]->filter;
      codec.decode(all[k].packet, all[k].sink, each, {latents[k], &all[k].times, filter ? &*filter : nullptr});
    });
  }
  py::list out;
  for (Decoding& d : all) {
    py::dict seconds;
    seconds["z"] = d.times.z;
    seconds["h_s"] = d.times.hyper;
    seconds["entropy"] = d.times.entropy;
    seconds["g_s"] = d.times.synthesis;
    out.append(py::make_tuple(d.pixels->view, d.latents ? d.latents->view : py::none(), seconds));
  }
  return out;
}

// The Python class of a failure.
py::object class_of(ErrorCode code) {
  const auto ours = [](const char* name) { return py::module_::import("ccm_fast.errors").attr(name); };
  const auto builtin = [](PyObject* type) { return py::reinterpret_borrow<py::object>(type); };
  switch (code) {
    case ErrorCode::kNotCcm:
      return ours("NotCcmError");
    case ErrorCode::kTruncated:
      return ours("TruncatedError");
    case ErrorCode::kDamaged:
      return ours("DamagedError");
    case ErrorCode::kWrongModel:
      return ours("WrongModelError");
    case ErrorCode::kUnsupported:
      return ours("UnsupportedVersionError");
    case ErrorCode::kLimit:
      return ours("LimitError");
    case ErrorCode::kModel:
      return ours("ModelError");
    case ErrorCode::kEncode:
      return ours("EncodeError");
    case ErrorCode::kArgument:
      return builtin(PyExc_ValueError);
    case ErrorCode::kFile:
      return builtin(PyExc_OSError);
    case ErrorCode::kMemory:
      return builtin(PyExc_MemoryError);
    case ErrorCode::kInternal:
      break;
  }
  return builtin(PyExc_RuntimeError);
}

// Decodes every file into an array of its own, uint8 [height, width, 3], grey pictures into all three channels.
// regions: as for decode(); arrays are of their sizes. Returns, for each, None or the exception that it failed with: a
// damaged file leaves the others alone.
py::list decode_into(const ccm::Codec& codec, const std::vector<const File*>& files, const std::vector<py::buffer>& out,
                     int threads, const std::vector<Rectangle>& regions) {
  if (threads < 1 || threads > 1024) throw py::value_error("threads must lie in 1..1024");
  if (files.size() != out.size() || (!regions.empty() && regions.size() != files.size()))
    throw py::value_error("an array, and a region or None, is needed for every file");
  struct Item {
    ccm::Packet packet;
    std::unique_ptr<const py::buffer_info> pixels;
    ccm::PixelSink sink;
    std::unique_ptr<Error> error;
  };
  std::vector<Item> items(files.size());
  for (size_t k = 0; k < files.size(); ++k) {
    const ccm::PacketHead& head = files[k]->head;
    const ccm::Region region = region_of(regions.empty() ? std::nullopt : regions[k], head.width, head.height);
    items[k].pixels = std::make_unique<const py::buffer_info>(out[k].request(true));
    const py::buffer_info& pixels = *items[k].pixels;
    const bool fits = is_samples(pixels, 8) && is_contiguous(pixels) &&
                      pixels.shape == std::vector<py::ssize_t>{static_cast<py::ssize_t>(region.height),
                                                               static_cast<py::ssize_t>(region.width), 3};
    if (!fits) throw py::value_error("arrays must be uint8 [height, width, 3], contiguous");
    items[k].sink = {pixels.ptr, region.width * 3, 0, 0, 3, 8, head.grey};
    place(items[k].sink, region);
  }
  const py::object nobody = py::none();
  {
    py::gil_scoped_release release;
    const ccm::InterruptScope interruptible(asking(nobody));
    ccm::side_by_side(threads, static_cast<int64_t>(items.size()), [&](int64_t k, int each) {
      Item& item = items[k];
      try {
        item.packet = codec.parse(files[k]->container.packet, files[k]->max_pixels);
        const auto& filter = files[k]->filter;
        codec.decode(item.packet, item.sink, each, {nullptr, nullptr, filter ? &*filter : nullptr});
      } catch (const Error& error) {
        item.error = std::make_unique<Error>(error);
      }
    });
  }
  py::list found;
  for (const Item& item : items) found.append(item.error ? class_of(item.error->code)(item.error->what()) : py::none());
  return found;
}

using Chunks = std::vector<std::pair<py::bytes, py::bytes>>;

// One picture to be encoded, its memory kept by the caller.
struct Encoding {
  Encoding(const py::buffer& picture, int quality_code, const Chunks& chunks)
      : pixels(picture.request()), source(pixels_of(pixels)), quality_code(quality_code) {
    for (const auto& [kind, data] : chunks) {
      const std::string_view name = kind, view = data;
      if (name.size() != 1 || !name[0]) throw py::value_error("a chunk type is one character other than NUL");
      parts.push_back({static_cast<uint8_t>(name[0]), {reinterpret_cast<const uint8_t*>(view.data()), view.size()}});
    }
  }

  py::buffer_info pixels;
  ccm::PixelSource source;
  int quality_code;
  std::vector<ccm::Chunk> parts;
  ccm::EncodeTimes times;
  std::vector<uint8_t> file;
  std::unique_ptr<Error> error;
};

// For each picture the bytes of its file and seconds by stage, or the exception that it failed with: such a picture
// leaves the others alone. pixels: uint8 or uint16 [H, W, 3] or [H, W], contiguous. Side by side.
py::list encode(const ccm::Codec& codec, const std::vector<py::buffer>& pixels, const std::vector<int>& quality_codes,
                int effort, int lanes, int threads, const std::vector<Chunks>& chunks, const py::object& progress) {
  if (threads < 1 || threads > 1024) throw py::value_error("threads must lie in 1..1024");
  if (pixels.size() != quality_codes.size() || pixels.size() != chunks.size())
    throw py::value_error("a quality and chunks are needed for every picture");
  std::vector<Encoding> all;
  for (size_t k = 0; k < pixels.size(); ++k) all.emplace_back(pixels[k], quality_codes[k], chunks[k]);
  {
    py::gil_scoped_release release;
    const ccm::InterruptScope interruptible(asking(progress));
    ccm::side_by_side(threads, static_cast<int64_t>(all.size()), [&](int64_t k, int each) {
      Encoding& e = all[k];
      try {
        e.file = codec.encode(e.source, {e.quality_code, effort, lanes, each}, e.parts, &e.times);
      } catch (const Error& error) {
        e.error = std::make_unique<Error>(error);
      }
    });
  }
  py::list out;
  for (const Encoding& e : all) {
    if (e.error) {
      out.append(class_of(e.error->code)(e.error->what()));
      continue;
    }
    py::dict seconds;
    seconds["g_a"] = e.times.analysis;
    seconds["h_a"] = e.times.hyper_analysis;
    seconds["h_s"] = e.times.hyper;
    seconds["effort"] = e.times.effort;
    seconds["entropy"] = e.times.entropy;
    seconds["filter"] = e.times.filter;
    out.append(py::make_tuple(to_bytes(e.file.data(), e.file.size()), seconds));
  }
  return out;
}

std::string isa_list() {
  std::string s;
  for (int i = ccm::kIsaCount - 1; i >= 0; --i)
    if (const ccm::Kernels* k = ccm::kernels_for(static_cast<ccm::Isa>(i)))
      s += (s.empty() ? "" : ",") + std::string(k->name);
  return s;
}

// The name of the entropy path's kernels that are meant by a name, or by none. Throws ValueError.
std::string isa(const std::string& name) {
  const ccm::Kernels* kernels = ccm::kernels_by_name(name.c_str());
  if (!kernels)
    throw py::value_error("instruction set '" + (name.empty() ? std::string(ccm::isa_limit()) : name) +
                          "' is not usable here: choose one of " + isa_list());
  return kernels->name;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The codec without torch; ccm_fast.native is its Python face.";
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& error) {
      PyErr_SetString(class_of(error.code).ptr(), error.what());
    } catch (const ccm::Interrupted&) {
      // What the signal's handler, or the caller's function, has raised is set.
    }
  });
  m.def("version", [] { return CCM_VERSION; }, "Version of ccm_fast that this module was compiled from.");
  m.def("compiler", [] { return CCM_COMPILER; }, "What it was compiled with.");
  m.def("isa_list", &isa_list, "Instruction sets of the entropy path that work here, the best one first.");
  m.def("isa", &isa, py::arg("name"), "The instruction set of that name; \"\": what CCM_FAST_ISA says, else the best.");
  m.def("transform_isa", [] {
    constexpr const char* kNames[] = {"scalar", "avx2", "avxvnni", "avx512vnni"};
    return kNames[ccm::transform_isa()];
  });
  m.def("has_int16_transforms", [] { return ccm::transform_kernels().winograd_int16 != nullptr; });
  m.def("default_threads", &ccm::default_threads, "Cores that this process may use.");
  m.def(
      "read_plan",
      [](const std::string& path) {
        const ccm::WeightsFile file(ccm::map_file(path, ccm::kMaxWeightsBytes));
        return to_bytes(file.plan(), file.plan_size());
      },
      py::arg("path"), "The frozen entropy model of a weights file, as bytes.");
  bind_filters(m);
  py::class_<File>(m, "File", "A .ccm file whose chunks and header have been read and checked.")
      .def(py::init<py::bytes, int64_t>(), py::arg("data"), py::arg("max_pixels"))
      .def_property_readonly(
          "fingerprint", [](const File& f) { return to_bytes(f.head.fingerprint.data(), f.head.fingerprint.size()); })
      .def_property_readonly("width", [](const File& f) { return f.head.width; })
      .def_property_readonly("height", [](const File& f) { return f.head.height; })
      .def_property_readonly("chunks", &chunks)
      .def_property_readonly("packet",
                             [](const File& f) { return to_bytes(f.container.packet.data, f.container.packet.size); });
  py::class_<ccm::Codec>(m, "Codec", "A model, ready to decode; threads may share it.")
      .def_static("open", &open_codec, py::arg("path"), py::arg("threads"), py::arg("float_transforms"), py::arg("isa"))
      .def_static("from_bytes", &open_bytes, py::arg("data"), py::arg("threads"), py::arg("float_transforms"),
                  py::arg("isa"))
      .def_property_readonly(
          "fingerprint", [](const ccm::Codec& c) { return to_bytes(c.fingerprint().data(), c.fingerprint().size()); })
      .def_property_readonly("groups", [](const ccm::Codec& c) { return c.entropy_model().groups; })
      .def_property_readonly("metric", [](const ccm::Codec& c) { return c.weights().metric(); })
      .def_property_readonly(
          "most_effort",
          [](const ccm::Codec& c) {
            return c.weights().metric() == "mse" && !c.weights().sensitivities().empty() ? ccm::kMostEffort : 1;
          },
          "The largest effort that encode() takes.")
      .def("encode", &encode, py::arg("pixels"), py::arg("quality_codes"), py::arg("effort"), py::arg("lanes"),
           py::arg("threads"), py::arg("chunks"), py::arg("progress") = py::none())
      .def("decode", &decode, py::arg("files"), py::arg("threads"), py::arg("bits") = 8, py::arg("groups") = -1,
           py::arg("latents") = true, py::arg("progress") = py::none(), py::arg("reduce") = 1,
           py::arg("regions") = std::vector<Rectangle>())
      .def("decode_into", &decode_into, py::arg("files"), py::arg("out"), py::arg("threads"),
           py::arg("regions") = std::vector<Rectangle>());
}
