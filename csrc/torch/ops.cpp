// Operator schemas and argument checks of the torch library; no algorithms.
//
// Only torch's stable ABI is used (torch/csrc/stable and torch/headeronly), so that one binary loads in CPU and CUDA
// builds of torch >= 2.10. <torch/extension.h> would tie it to one release, and costs a minute to compile.
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "base/memory.h"
#include "base/threads.h"
#include "entropy/cpu/context_cpu.h"
#include "entropy/cpu/int8_product.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/pack.h"
#include "model/model.h"
#include "torch/interruptible.h"
#include "torch/ops_common.h"

namespace {

using namespace ccm_ops;
using ccm::PackedModel;

const PackedModel& model(const Tensor& packed) {
  check_tensor(packed, ScalarType::Byte, {-1}, "packed");
  return ccm::open_packed(packed.data_ptr(), static_cast<size_t>(packed.numel()));
}

// Rows (offset, length, lanes as in valid_streams()) of `segments`, checked against the bytes they point into.
std::vector<ccm::Segment> read_segments(const Tensor& bytes, const Tensor& segments) {
  check(bytes.is_cpu() && bytes.scalar_type() == ScalarType::Byte && bytes.is_contiguous() && bytes.dim() == 1,
        "data must be a contiguous one-dimensional uint8 CPU tensor");
  const int64_t size = bytes.numel(), count = segments.numel() / 3;
  const int64_t* s = data<int64_t>(segments);
  std::vector<ccm::Segment> out;
  for (int64_t i = 0; i < count; ++i, s += 3) {
    check(s[0] >= 0 && s[1] >= 0 && s[0] <= size && s[1] <= size - s[0], "a segment lies outside data");
    check(ccm::valid_streams(s[2]), "a segment of unknown lanes");
    out.push_back({data<uint8_t>(bytes) + s[0], s[1], s[2]});
  }
  return out;
}

// Streams -> one tensor of bytes and one row (offset, length, lanes) each.
std::tuple<Tensor, Tensor> write_segments(const Tensor& like, const std::vector<ccm::EncodedStream>& streams,
                                          const std::vector<int64_t>& shape) {
  int64_t total = 0;
  for (const auto& s : streams) total += static_cast<int64_t>(s.bytes.size());
  Tensor bytes = torch::stable::new_empty(like, {total}, ScalarType::Byte);
  Tensor segments = torch::stable::new_empty(like, {shape.data(), shape.size()}, ScalarType::Long);
  int64_t at = 0;
  int64_t* row = data<int64_t>(segments);
  for (const auto& s : streams) {
    if (!s.bytes.empty()) std::memcpy(data<uint8_t>(bytes) + at, s.bytes.data(), s.bytes.size());
    *row++ = at;
    *row++ = static_cast<int64_t>(s.bytes.size());
    *row++ = s.code;
    at += static_cast<int64_t>(s.bytes.size());
  }
  return {bytes, segments};
}

void check_values(const Tensor& t, const std::string& name) {
  const int16_t* v = data<int16_t>(t);
  for (int64_t i = 0, n = t.numel(); i < n; ++i)
    if (v[i] == -32768) check(false, name + " holds -32768, which the format cannot code");
}

// Channels of z that are not coded have to have their values.
void check_fixed_channels(const PackedModel& m, const Tensor& z_hat) {
  if (m.z_coded == m.hyper_channels) return;
  std::vector<uint8_t> coded(m.hyper_channels);
  const uint16_t* channels = m.at<uint16_t>(m.z_channels);
  for (int32_t c = 0; c < m.z_coded; ++c) coded[channels[c]] = 1;
  const int16_t *values = m.at<int16_t>(m.z_values), *z = data<int16_t>(z_hat);
  for (int64_t i = 0, n = z_hat.numel(); i < n; i += m.hyper_channels)
    for (int32_t c = 0; c < m.hyper_channels; ++c)
      if (!coded[c] && z[i + c] != values[c])
        check(false, "channel " + std::to_string(c) + " of z_hat is not coded, and has another value");
}

Tensor pack_plan(Tensor plan, std::string isa) {
  check_tensor(plan, ScalarType::Byte, {-1}, "plan");
  const ccm::Kernels* kernels = ccm::kernels_by_name(isa.c_str());
  check(kernels, "instruction set '" + isa + "' is unknown or not usable on this machine");
  const std::vector<uint8_t> packed = ccm::pack_plan(data<uint8_t>(plan), static_cast<size_t>(plan.numel()), *kernels);
  Tensor out = torch::stable::new_empty(plan, {static_cast<int64_t>(packed.size())}, ScalarType::Byte);
  ccm::want_huge_pages(out.data_ptr(), packed.size());
  std::memcpy(out.data_ptr(), packed.data(), packed.size());
  return out;
}

std::tuple<Tensor, Tensor> decode_z(Tensor packed, Tensor bytes, Tensor segments, int64_t hz, int64_t wz,
                                    int64_t threads) {
  const PackedModel& m = model(packed);
  check_plane(hz, wz, m.hyper_channels);
  check_tensor(segments, ScalarType::Long, {-1, 3}, "segments");
  const auto streams = read_segments(bytes, segments);
  const int64_t batch = segments.size(0);
  Tensor z = torch::stable::new_empty(packed, {batch, hz, wz, m.hyper_channels}, ScalarType::Short);
  Tensor status = torch::stable::new_zeros(packed, {batch}, ScalarType::Int);
  ccm::parallel_for(thread_count(threads), batch, [&](int64_t b) {
    data<int32_t>(status)[b] = ccm::decode_z(m, streams[b], static_cast<int32_t>(hz), static_cast<int32_t>(wz),
                                             data<int16_t>(z) + b * hz * wz * m.hyper_channels);
  });
  return {z, status};
}

Tensor hyper(Tensor packed, Tensor z_hat, int64_t h, int64_t w, int64_t threads) {
  const PackedModel& m = model(packed);
  check_plane(h, w, m.psi_channels);
  check_tensor(z_hat, ScalarType::Short, {-1, (h + 3) / 4, (w + 3) / 4, m.hyper_channels}, "z_hat");
  const int64_t batch = z_hat.size(0), hz = z_hat.size(1), wz = z_hat.size(2);
  Tensor psi = torch::stable::new_empty(packed, {batch, h, w, m.psi_channels}, ScalarType::Byte);
  for (int64_t b = 0; b < batch; ++b)
    ccm::hyper(m, data<int16_t>(z_hat) + b * hz * wz * m.hyper_channels, static_cast<int32_t>(hz),
               static_cast<int32_t>(wz), static_cast<int32_t>(h), static_cast<int32_t>(w), thread_count(threads),
               data<uint8_t>(psi) + b * h * w * m.psi_channels);
  return psi;
}

// y, status and, where they are wanted, offsets and rows of all symbols.
std::tuple<Tensor, Tensor, Tensor, Tensor> decode_latents(const Tensor& packed, const Tensor& psi, const Tensor& bytes,
                                                          const Tensor& segments, int64_t threads, bool wanted) {
  const PackedModel& m = model(packed);
  check_tensor(psi, ScalarType::Byte, {-1, -1, -1, m.psi_channels}, "psi");
  const int64_t batch = psi.size(0), h = psi.size(1), w = psi.size(2);
  check_plane(h, w, m.latent_channels);
  check_tensor(segments, ScalarType::Long, {batch, m.groups, 3}, "segments");
  const auto streams = read_segments(bytes, segments);
  const std::vector<int64_t> shape = {wanted ? batch : 0, h, w, m.latent_channels};
  // Not cleared: memory follows what the streams have proven to hold. Of a bad stream any values, which callers refuse.
  Tensor y = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Short);
  Tensor status = torch::stable::new_zeros(packed, {batch}, ScalarType::Int);
  Tensor offset = torch::stable::new_empty(packed, shape, ScalarType::Short);
  Tensor row = torch::stable::new_empty(packed, shape, ScalarType::Short);
  std::vector<ccm::DecodeJob> jobs;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t at = b * h * w * m.latent_channels;
    jobs.push_back({data<uint8_t>(psi) + b * h * w * m.psi_channels, &streams[b * m.groups], data<int16_t>(y) + at,
                    ccm::kOk, wanted ? data<uint16_t>(row) + at : nullptr,
                    wanted ? data<int16_t>(offset) + at : nullptr});
  }
  ccm::decode_y(m, static_cast<int32_t>(h), static_cast<int32_t>(w), thread_count(threads), jobs);
  for (int64_t b = 0; b < batch; ++b) data<int32_t>(status)[b] = jobs[b].status;
  return {y, status, offset, row};
}

std::tuple<Tensor, Tensor> decode_y(Tensor packed, Tensor psi, Tensor bytes, Tensor segments, int64_t threads) {
  auto [y, status, offset, row] = decode_latents(packed, psi, bytes, segments, threads, false);
  return {y, status};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> decode_y_parameters(Tensor packed, Tensor psi, Tensor bytes, Tensor segments,
                                                               int64_t threads) {
  return decode_latents(packed, psi, bytes, segments, threads, true);
}

// y, status and what the symbols stand for. shifts: what to add to a symbol, by its row and its distance from its
// offset.
std::tuple<Tensor, Tensor, Tensor> decode_y_restored(Tensor packed, Tensor psi, Tensor bytes, Tensor segments,
                                                     Tensor shifts, int64_t threads) {
  const PackedModel& m = model(packed);
  check(!m.residual, "residual models restore y_hat itself");
  check_tensor(psi, ScalarType::Byte, {-1, -1, -1, m.psi_channels}, "psi");
  check_tensor(shifts, ScalarType::Float, {m.y_rows.count, 2 * ccm::kShiftReach + 1}, "shifts");
  const int64_t batch = psi.size(0), h = psi.size(1), w = psi.size(2), plane = h * w * m.latent_channels;
  check_plane(h, w, m.latent_channels);
  check_tensor(segments, ScalarType::Long, {batch, m.groups, 3}, "segments");
  const auto streams = read_segments(bytes, segments);
  Tensor y = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Short);
  Tensor status = torch::stable::new_zeros(packed, {batch}, ScalarType::Int);
  Tensor restored = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Float);
  std::vector<ccm::DecodeJob> jobs;
  for (int64_t b = 0; b < batch; ++b) {
    jobs.push_back({data<uint8_t>(psi) + b * h * w * m.psi_channels, &streams[b * m.groups],
                    data<int16_t>(y) + b * plane, ccm::kOk});
    jobs.back().values = data<float>(restored) + b * plane;
    jobs.back().shifts = data<float>(shifts);
  }
  ccm::decode_y(m, static_cast<int32_t>(h), static_cast<int32_t>(w), thread_count(threads), jobs);
  for (int64_t b = 0; b < batch; ++b) data<int32_t>(status)[b] = jobs[b].status;
  return {y, status, restored};
}

std::tuple<Tensor, Tensor> encode_z(Tensor packed, Tensor z_hat, int64_t lanes, int64_t threads) {
  const PackedModel& m = model(packed);
  check_lanes(lanes, true);
  check_tensor(z_hat, ScalarType::Short, {-1, -1, -1, m.hyper_channels}, "z_hat");
  check_values(z_hat, "z_hat");
  const int64_t batch = z_hat.size(0), hz = z_hat.size(1), wz = z_hat.size(2);
  check_plane(hz, wz, m.hyper_channels);
  check_fixed_channels(m, z_hat);
  std::vector<ccm::EncodedStream> streams(batch);
  ccm::parallel_for(thread_count(threads), batch, [&](int64_t b) {
    streams[b] = ccm::encode_z(m, data<int16_t>(z_hat) + b * hz * wz * m.hyper_channels, static_cast<int32_t>(hz),
                               static_cast<int32_t>(wz), static_cast<int32_t>(lanes));
  });
  return write_segments(packed, streams, {batch, 3});
}

// Common checks of operators that know y; returns the batch size.
int64_t check_known(const PackedModel& m, const Tensor& psi, const Tensor& y_hat) {
  check_tensor(psi, ScalarType::Byte, {-1, -1, -1, m.psi_channels}, "psi");
  check_plane(psi.size(1), psi.size(2), m.latent_channels);
  check_tensor(y_hat, ScalarType::Short, {psi.size(0), psi.size(1), psi.size(2), m.latent_channels}, "y_hat");
  return psi.size(0);
}

// y_hat as a decoder will have it, where the model skips symbols; its parameters or streams, as they are wanted.
std::tuple<Tensor, Tensor, Tensor, std::vector<ccm::EncodedStream>> settled(const Tensor& packed, const Tensor& psi,
                                                                            const Tensor& y_hat, int64_t lanes,
                                                                            int64_t threads, bool encode) {
  const PackedModel& m = model(packed);
  const int64_t batch = check_known(m, psi, y_hat), h = psi.size(1), w = psi.size(2);
  check(!m.residual, "residual models have no symbols to settle");
  check_values(y_hat, "y_hat");
  const std::vector<int64_t> shape = {encode ? 0 : batch, h, w, m.latent_channels};
  Tensor out = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Short);
  Tensor offset = torch::stable::new_empty(packed, shape, ScalarType::Short);
  Tensor row = torch::stable::new_empty(packed, shape, ScalarType::Short);
  std::vector<ccm::EncodedStream> streams(encode ? batch * m.groups : 0);
  std::vector<ccm::SettleJob> jobs;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t at = b * h * w * m.latent_channels;
    jobs.push_back({data<uint8_t>(psi) + b * h * w * m.psi_channels, data<int16_t>(y_hat) + at, data<int16_t>(out) + at,
                    encode ? &streams[b * m.groups] : nullptr, encode ? nullptr : data<uint16_t>(row) + at,
                    encode ? nullptr : data<int16_t>(offset) + at});
  }
  ccm::settle_y(m, static_cast<int32_t>(h), static_cast<int32_t>(w), static_cast<int32_t>(lanes), thread_count(threads),
                jobs);
  return {out, offset, row, std::move(streams)};
}

std::tuple<Tensor, Tensor, Tensor> settle_y(Tensor packed, Tensor psi, Tensor y_hat, int64_t threads) {
  auto [out, offset, row, none] = settled(packed, psi, y_hat, 0, threads, false);
  return {out, offset, row};
}

// y_hat of settle_y alone: what a GPU has a kernel for.
Tensor settle_alone(Tensor packed, Tensor psi, Tensor y_hat, int64_t threads) {
  return std::get<0>(settle_y(packed, psi, y_hat, threads));
}

std::tuple<Tensor, Tensor, Tensor> encode_settled(Tensor packed, Tensor psi, Tensor y_hat, int64_t lanes,
                                                  int64_t threads) {
  check_lanes(lanes, true);
  auto [out, offset, row, streams] = settled(packed, psi, y_hat, lanes, threads, true);
  auto [bytes, segments] = write_segments(packed, streams, {psi.size(0), model(packed).groups, 3});
  return {bytes, segments, out};
}

std::tuple<Tensor, Tensor> encode_y(Tensor packed, Tensor psi, Tensor y_hat, int64_t lanes, int64_t threads) {
  const PackedModel& m = model(packed);
  check_lanes(lanes, true);
  const int64_t batch = check_known(m, psi, y_hat), h = psi.size(1), w = psi.size(2);
  check(!m.residual, "this model codes residuals: use encode_y_residual");
  check(!m.skip_rows, "this model skips symbols: use encode_settled");
  check_values(y_hat, "y_hat");
  std::vector<ccm::EncodedStream> streams;
  for (int64_t b = 0; b < batch; ++b) {
    auto image = ccm::encode_y(m, data<uint8_t>(psi) + b * h * w * m.psi_channels,
                               data<int16_t>(y_hat) + b * h * w * m.latent_channels, static_cast<int32_t>(h),
                               static_cast<int32_t>(w), static_cast<int32_t>(lanes), thread_count(threads));
    for (auto& s : image) streams.push_back(std::move(s));
  }
  return write_segments(packed, streams, {batch, m.groups, 3});
}

std::tuple<Tensor, Tensor, Tensor> encode_y_residual(Tensor packed, Tensor psi, Tensor y, int64_t lanes,
                                                     int64_t threads) {
  const PackedModel& m = model(packed);
  check_lanes(lanes, true);
  check(m.residual, "this model does not code residuals: use encode_y");
  check_tensor(psi, ScalarType::Byte, {-1, -1, -1, m.psi_channels}, "psi");
  const int64_t batch = psi.size(0), h = psi.size(1), w = psi.size(2), plane = h * w * m.latent_channels;
  check_plane(h, w, m.latent_channels);
  check_tensor(y, ScalarType::Int, {batch, h, w, m.latent_channels}, "y");
  const int32_t* values = data<int32_t>(y);
  for (int64_t i = 0; i < batch * plane; ++i)  // a message made for each took a third of all time
    if (values[i] < -ccm::kResidualLimit || values[i] > ccm::kResidualLimit)
      check(false, "y holds " + std::to_string(values[i]) + " / 256, beyond " + std::to_string(ccm::kResidualLimit) +
                       " / 256, the largest magnitude that the format can code");
  Tensor y_hat = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Short);
  std::vector<ccm::EncodedStream> streams(batch * m.groups);
  std::vector<ccm::ResidualJob> jobs;
  for (int64_t b = 0; b < batch; ++b)
    jobs.push_back({data<uint8_t>(psi) + b * h * w * m.psi_channels, values + b * plane,
                    data<int16_t>(y_hat) + b * plane, &streams[b * m.groups]});
  ccm::encode_y_residual(m, static_cast<int32_t>(h), static_cast<int32_t>(w), static_cast<int32_t>(lanes),
                         thread_count(threads), jobs);
  auto [bytes, segments] = write_segments(packed, streams, {batch, m.groups, 3});
  return {bytes, segments, y_hat};
}

std::tuple<Tensor, Tensor> parameters(Tensor packed, Tensor psi, Tensor y_hat, int64_t threads) {
  const PackedModel& m = model(packed);
  const int64_t batch = check_known(m, psi, y_hat), h = psi.size(1), w = psi.size(2);
  Tensor offset = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Short);
  Tensor row = torch::stable::new_empty(packed, {batch, h, w, m.latent_channels}, ScalarType::Short);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t at = b * h * w * m.latent_channels;
    ccm::parameters(m, data<uint8_t>(psi) + b * h * w * m.psi_channels, data<int16_t>(y_hat) + at,
                    static_cast<int32_t>(h), static_cast<int32_t>(w), thread_count(threads), data<uint16_t>(row) + at,
                    data<int16_t>(offset) + at);
  }
  return {offset, row};
}

std::string isa_list() {
  std::string s;
  for (int i = ccm::kIsaCount - 1; i >= 0; --i)
    if (const ccm::Kernels* k = ccm::kernels_for(static_cast<ccm::Isa>(i)))
      s += (s.empty() ? "" : ",") + std::string(k->name);
  return s;
}

// Multiply-adds per second of the matrix kernel alone, as a yardstick: m x k elements by k x n weights, `repeats`
// times. Returns the accumulators, so that a benchmark can check them. x uint8 [m, k] (k a multiple of 4), w int8 [n,
// k].
Tensor int8_product(Tensor x, Tensor w, std::string isa, int64_t repeats) {
  const ccm::Kernels* kernels = ccm::kernels_by_name(isa.c_str());
  check(kernels, "instruction set '" + isa + "' is unknown or not usable on this machine");
  check_tensor(x, ScalarType::Byte, {-1, -1}, "x");
  const int64_t m = x.size(0), k = x.size(1);
  check(k % 4 == 0 && k <= 1 << 20 && m <= 1 << 20, "x must be at most 2^20 x 2^20, its columns a multiple of 4");
  check_tensor(w, ScalarType::Char, {-1, k}, "w");
  check(w.size(0) <= 1 << 20, "w has too many rows");
  // A minute or so of the slowest kernels: nothing can end the loop before.
  check(repeats >= 0 && static_cast<double>(repeats) * m * k * w.size(0) <= 1e12,
        "repeats must lie in 0..10^12 / (m k n)");
  const std::vector<int32_t> out =
      ccm::int8_product(*kernels, data<uint8_t>(x), data<int8_t>(w), static_cast<int32_t>(m), static_cast<int32_t>(k),
                        static_cast<int32_t>(w.size(0)), repeats);
  Tensor c = torch::stable::new_empty(x, {m, w.size(0)}, ScalarType::Int);
  std::memcpy(c.data_ptr(), out.data(), out.size() * sizeof(int32_t));
  return c;
}

// What this binary was compiled with, as "key=value" words: for `ccm-fast env` and bug reports.
std::string build_info() {
  std::string s = "compiler=" CCM_COMPILER " torch=" CCM_TORCH_VERSION " isa=baseline";
#ifdef CCM_HAVE_AVX2
  s += ",avx2";
#endif
#ifdef CCM_HAVE_AVXVNNI
  s += ",avxvnni";
#endif
#ifdef CCM_HAVE_AVX512VNNI
  s += ",avx512vnni";
#endif
#ifdef CCM_HAVE_AVX512AMX
  s += ",avx512amx";
#endif
#ifdef CCM_HAVE_DOTPROD
  s += ",dotprod";
#endif
#ifdef CCM_HAVE_I8MM
  s += ",i8mm";
#endif
  return s;
}

}  // namespace

STABLE_TORCH_LIBRARY(ccm_fast, m) {
  m.def("build_info() -> str");
  m.def("pack_plan_cuda(Tensor plan) -> Tensor");
  m.def("isa_list() -> str");
  m.def("pack_plan(Tensor plan, str isa) -> Tensor");
  m.def("decode_z(Tensor packed, Tensor data, Tensor segments, int hz, int wz, int threads) -> (Tensor, Tensor)");
  m.def("hyper(Tensor packed, Tensor z_hat, int h, int w, int threads) -> Tensor");
  m.def("decode_y(Tensor packed, Tensor psi, Tensor data, Tensor segments, int threads) -> (Tensor, Tensor)");
  m.def(
      "decode_y_parameters(Tensor packed, Tensor psi, Tensor data, Tensor segments, int threads) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "decode_y_restored(Tensor packed, Tensor psi, Tensor data, Tensor segments, Tensor shifts, int threads) -> "
      "(Tensor, Tensor, Tensor)");
  m.def("encode_z(Tensor packed, Tensor z_hat, int lanes, int threads) -> (Tensor, Tensor)");
  m.def("encode_y(Tensor packed, Tensor psi, Tensor y_hat, int lanes, int threads) -> (Tensor, Tensor)");
  m.def(
      "encode_y_residual(Tensor packed, Tensor psi, Tensor y, int lanes, int threads) -> (Tensor data, Tensor "
      "segments, "
      "Tensor y_hat)");
  m.def("settle_y(Tensor packed, Tensor psi, Tensor y_hat, int threads) -> (Tensor, Tensor, Tensor)");
  m.def("settled(Tensor packed, Tensor psi, Tensor y_hat, int threads) -> Tensor");
  m.def(
      "encode_settled(Tensor packed, Tensor psi, Tensor y_hat, int lanes, int threads) -> (Tensor data, Tensor "
      "segments, Tensor y_hat)");
  m.def("parameters(Tensor packed, Tensor psi, Tensor y_hat, int threads) -> (Tensor, Tensor)");
  m.def("int8_product(Tensor x, Tensor w, str isa, int repeats) -> Tensor");
  m.def("picture_filter(Tensor pixels, Tensor filters, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) {
  m.impl("pack_plan", TORCH_BOX(&pack_plan));
  m.impl("decode_z", CCM_INTERRUPTIBLE(decode_z));
  m.impl("hyper", CCM_INTERRUPTIBLE(hyper));
  m.impl("decode_y", CCM_INTERRUPTIBLE(decode_y));
  m.impl("decode_y_parameters", CCM_INTERRUPTIBLE(decode_y_parameters));
  m.impl("decode_y_restored", CCM_INTERRUPTIBLE(decode_y_restored));
  m.impl("encode_z", CCM_INTERRUPTIBLE(encode_z));
  m.impl("encode_y", CCM_INTERRUPTIBLE(encode_y));
  m.impl("encode_y_residual", CCM_INTERRUPTIBLE(encode_y_residual));
  m.impl("settle_y", CCM_INTERRUPTIBLE(settle_y));
  m.impl("settled", CCM_INTERRUPTIBLE(settle_alone));
  m.impl("encode_settled", CCM_INTERRUPTIBLE(encode_settled));
  m.impl("parameters", CCM_INTERRUPTIBLE(parameters));
  m.impl("int8_product", TORCH_BOX(&int8_product));
}

// No tensor argument that the dispatcher could take a device from, hence CompositeExplicitAutograd.
STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
  m.impl("isa_list", TORCH_BOX(&isa_list));
}
