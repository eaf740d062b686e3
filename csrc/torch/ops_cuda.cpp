// The operators on CUDA tensors; no algorithms. Schemas are in ops.cpp: the same names and shapes as on the CPU.
//
// `packed` stays in host memory, where sizes are read without waiting for the GPU; a copy of it, and the coding order
// of each size of plane, are uploaded when first needed and kept. Apart from those first calls nothing here waits for
// the device, and all memory comes from torch's allocator, so that calls can be captured into a CUDA graph.
//
// With CCM_EMU the same code runs on CPU tensors through the emulator, as the operators `ccm_fast_emu::*`.
#if defined(CCM_WITH_CUDA) || defined(CCM_EMU)
#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <list>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "entropy/cpu/pack.h"
#include "entropy/cuda/engine_cuda.h"
#include "torch/ops_device.h"

namespace {

using namespace ccm_ops;
using ccm::DeviceModel;

// Waits: what is uploaded is used on other streams, too.
void upload(void* to, const void* from, size_t bytes, const Device& device) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device.stream));
  check_cuda(cudaStreamSynchronize(device.stream));
}

bool capturing(const Device& device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(device.stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// Things in device memory, found again by what they were made from. The least recently used one goes first, but what a
// graph has captured stays: the graph may be replayed at any time.
class Uploads {
 public:
  using Key = std::array<int64_t, 5>;
  struct Thing {
    Tensor on_device;
    std::array<int32_t, ccm::kOrderHeader> header;  // what the host needs to know of an order
    bool captured = false;
  };

  template <class Make>
  Thing get(const Key& key, const Device& device, Make make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool captured = capturing(device);
    for (auto it = kept_.begin(); it != kept_.end(); ++it)
      if (it->first == key) {
        kept_.splice(kept_.begin(), kept_, it);
        kept_.front().second.captured |= captured;
        return kept_.front().second;
      }
    check(!captured, "a CUDA graph cannot be captured before this model and this size are on the GPU: run once first");
    kept_.emplace_front(key, make());
    if (kept_.size() > kMost)
      for (auto it = std::prev(kept_.end()); it != kept_.begin(); --it)
        if (!it->second.captured) {
          kept_.erase(it);
          break;
        }
    return kept_.front().second;
  }

 private:
  static constexpr size_t kMost = 64;  // models and sizes in turn; an order takes 4 bytes a latent position
  std::mutex mutex_;
  std::list<std::pair<Key, Thing>> kept_;
};

Uploads& uploads() {
  // Never destroyed: at exit the CUDA context may be gone before it.
  static Uploads* u = new Uploads;
  return *u;
}

int64_t hash(const void* data, size_t size) {  // FNV-1a
  const auto* p = static_cast<const uint8_t*>(data);
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < size; ++i) h = (h ^ p[i]) * 1099511628211u;
  return static_cast<int64_t>(h);
}

// Memory from torch's allocator: its own while a graph is captured, which keeps it until the graph goes.
#ifdef CCM_EMU
std::vector<Tensor> graph_memory;
Tensor fresh(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  Tensor t = torch::stable::new_empty(like, shape, type);
  if (emu::capturing()) graph_memory.push_back(t);
  return t;
}
#else
Tensor fresh(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}
#endif

// For bytes of which only some are written: what lay there before must not leave the device with them.
Tensor fresh_bytes(const Tensor& like, int64_t size) {
  Tensor t = fresh(like, {size}, ScalarType::Byte);
  return torch::stable::zero_(t);
}

// A model in host memory and its copy on the device of a tensor.
struct Model {
  Model(const Tensor& packed, const Tensor& like, const Device& device) {
    check_tensor(packed, ScalarType::Byte, {-1}, "packed");
    const int64_t size = packed.numel();
    host = static_cast<const DeviceModel*>(packed.data_ptr());
    check(size >= static_cast<int64_t>(sizeof(DeviceModel)) && host->magic == ccm::kDeviceMagic && host->bytes == size,
          "packed was not made by pack_plan_cuda");
    copy = uploads().get({0, device.index, size, host->identity, 0}, device, [&] {
      Tensor t = torch::stable::new_empty(like, {size}, ScalarType::Byte);
      upload(t.data_ptr(), packed.data_ptr(), static_cast<size_t>(size), device);
      return Uploads::Thing{t, {}, false};
    });
  }
  const DeviceModel* on_device() const { return static_cast<const DeviceModel*>(copy->on_device.data_ptr()); }

  const DeviceModel* host;
  std::optional<Uploads::Thing> copy;
};

struct Order {
  Order(const DeviceModel& m, int64_t h, int64_t w, const Tensor& like, const Device& device) {
    const auto rows = static_cast<int32_t>(h), cols = static_cast<int32_t>(w);
    copy = uploads().get({1 + m.most_shift, device.index, h, w, hash(m.schedule, sizeof m.schedule)}, device, [&] {
      const std::vector<int32_t> numbers = ccm::build_order(m, rows, cols);
      Tensor t = torch::stable::new_empty(like, {static_cast<int64_t>(numbers.size())}, ScalarType::Int);
      upload(t.data_ptr(), numbers.data(), numbers.size() * sizeof(int32_t), device);
      Uploads::Thing thing{t, {}, false};
      std::copy(numbers.begin(), numbers.begin() + ccm::kOrderHeader, thing.header.begin());
      return thing;
    });
    view = ccm::view_order(copy->header.data(), data<int32_t>(copy->on_device));
  }

  std::optional<Uploads::Thing> copy;
  ccm::OrderView view;
};

ccm::LaunchOptions options_of(int64_t threads) {
  ccm::LaunchOptions options;
#ifdef CCM_EMU
  options.threads = threads >= 64 ? static_cast<int32_t>(threads / 32 * 32) : 64;  // emulated threads cost time
#else
  (void)threads;  // the CPU's; blocks are sized for the GPU
#endif
  return options;
}

Tensor scratch_of(const Tensor& like, int64_t bytes) {
  check(bytes >= 0, "the device does not say what it has");
  return fresh(like, {bytes + 256}, ScalarType::Byte);
}
uint8_t* aligned(const Tensor& scratch) {
  return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(scratch.data_ptr()) + 255) / 256 * 256);
}

void check_bytes(const Tensor& bytes) { check_tensor(bytes, ScalarType::Byte, {-1}, "data", kCuda); }

Tensor pack_plan_cuda(Tensor plan) {
  check_tensor(plan, ScalarType::Byte, {-1}, "plan");
  const std::vector<uint8_t> packed =
      ccm::pack_plan(data<uint8_t>(plan), static_cast<size_t>(plan.numel()), ccm::cuda_layout());
  std::vector<uint8_t> blob = ccm::to_device(*reinterpret_cast<const ccm::PackedModel*>(packed.data()));
  auto* m = reinterpret_cast<DeviceModel*>(blob.data());
  m->identity = hash(blob.data(), blob.size());
  Tensor out = fresh(plan, {static_cast<int64_t>(blob.size())}, ScalarType::Byte);
  std::memcpy(out.data_ptr(), blob.data(), blob.size());
  return out;
}

std::tuple<Tensor, Tensor> decode_z(Tensor packed, Tensor bytes, Tensor segments, int64_t hz, int64_t wz,
                                    int64_t threads) {
  check_bytes(bytes);
  check_tensor(segments, ScalarType::Long, {-1, 3}, "segments", kCuda);
  const Device device(bytes);
  const Model m(packed, bytes, device);
  check_plane(hz, wz, m.host->hyper_channels);
  const int64_t batch = segments.size(0);
  Tensor z = fresh(bytes, {batch, hz, wz, m.host->hyper_channels}, ScalarType::Short);
  Tensor status = fresh(bytes, {batch}, ScalarType::Int);
  check_cuda(ccm::decode_z(m.on_device(), data<uint8_t>(bytes), bytes.numel(), data<int64_t>(segments),
                           static_cast<int32_t>(batch), static_cast<int32_t>(hz), static_cast<int32_t>(wz),
                           data<int16_t>(z), data<int32_t>(status), options_of(threads), device.stream));
  return {z, status};
}

Tensor hyper(Tensor packed, Tensor z_hat, int64_t h, int64_t w, int64_t threads) {
  check(h >= 1 && w >= 1 && h <= kMaxSide && w <= kMaxSide, "h and w must lie in 1..65536");
  const Device device(z_hat);
  const Model m(packed, z_hat, device);
  check_plane(h, w, m.host->psi_channels);
  check_tensor(z_hat, ScalarType::Short, {-1, (h + 3) / 4, (w + 3) / 4, m.host->hyper_channels}, "z_hat", kCuda);
  const auto batch = static_cast<int32_t>(z_hat.size(0));
  Tensor psi = fresh(z_hat, {batch, h, w, m.host->psi_channels}, ScalarType::Byte);
  const Tensor scratch = scratch_of(z_hat, ccm::hyper_scratch(*m.host, batch, static_cast<int32_t>(z_hat.size(1)),
                                                              static_cast<int32_t>(z_hat.size(2))));
  check_cuda(ccm::hyper(*m.host, m.on_device(), data<int16_t>(z_hat), batch, static_cast<int32_t>(h),
                        static_cast<int32_t>(w), data<uint8_t>(psi), aligned(scratch), options_of(threads),
                        device.stream));
  return psi;
}

// y, status and, if there are shifts [rows, 2 reach + 1], what symbols stand for.
std::tuple<Tensor, Tensor, Tensor> decode_latents(const Tensor& packed, const Tensor& psi, const Tensor& bytes,
                                                  const Tensor& segments, const std::optional<Tensor>& shifts,
                                                  int64_t threads) {
  const Device device(psi);
  const Model m(packed, psi, device);
  check_tensor(psi, ScalarType::Byte, {-1, -1, -1, m.host->psi_channels}, "psi", kCuda);
  check_bytes(bytes);
  const auto batch = static_cast<int32_t>(psi.size(0)), h = static_cast<int32_t>(psi.size(1)),
             w = static_cast<int32_t>(psi.size(2));
  check_plane(h, w, m.host->latent_channels);
  check_tensor(segments, ScalarType::Long, {batch, m.host->groups, 3}, "segments", kCuda);
  const Order order(*m.host, h, w, psi, device);
  const ccm::LaunchOptions options = options_of(threads);
  Tensor y = fresh(psi, {batch, h, w, m.host->latent_channels}, ScalarType::Short);
  Tensor status = fresh(psi, {batch}, ScalarType::Int);
  ccm::Restoring restoring;
  Tensor restored = fresh(psi, {shifts ? batch : 0, h, w, m.host->latent_channels}, ScalarType::Float);
  if (shifts) {
    check(!m.host->residual, "latents of residual models are restored around their means already");
    check_tensor(*shifts, ScalarType::Float, {m.host->y_rows.count, -1}, "shifts", kCuda);
    check(shifts->size(1) % 2 == 1 && shifts->size(1) < 65536, "shifts must have an odd number of columns");
    restoring = {data<float>(*shifts), static_cast<int32_t>(shifts->size(1) / 2), data<float>(restored)};
  }
  const Tensor scratch = scratch_of(psi, ccm::latents_scratch(*m.host, batch, h, w, options));
  check_cuda(ccm::decode_y(*m.host, m.on_device(), order.view, data<uint8_t>(psi), data<uint8_t>(bytes), bytes.numel(),
                           data<int64_t>(segments), batch, h, w, data<int16_t>(y), data<int32_t>(status), restoring,
                           aligned(scratch), options, device.stream));
  return {y, status, restored};
}

std::tuple<Tensor, Tensor> decode_y(Tensor packed, Tensor psi, Tensor bytes, Tensor segments, int64_t threads) {
  auto [y, status, none] = decode_latents(packed, psi, bytes, segments, std::nullopt, threads);
  return {y, status};
}

std::tuple<Tensor, Tensor, Tensor> decode_y_restored(Tensor packed, Tensor psi, Tensor bytes, Tensor segments,
                                                     Tensor shifts, int64_t threads) {
  return decode_latents(packed, psi, bytes, segments, shifts, threads);
}

void check_code(const DeviceModel& m, int64_t lanes) {
  check_lanes(lanes, true);
  check(ccm::stream_kind(lanes).version >= m.least_version, "this model needs streams of version 2");
}

// Streams of images whose values cannot be coded are empty: nothing here waits for the device to say so. No lanes: no
// streams, y_hat alone.
std::tuple<Tensor, Tensor, Tensor> encode_latents(const Tensor& packed, const Tensor& psi, const Tensor& y,
                                                  std::optional<int64_t> lanes, int64_t threads, bool residual) {
  const Device device(psi);
  const Model m(packed, psi, device);
  if (lanes) check_code(*m.host, *lanes);
  check(residual == (m.host->residual != 0), residual ? "this model does not code residuals: use encode_y"
                                                      : "this model codes residuals: use encode_y_residual");
  check_tensor(psi, ScalarType::Byte, {-1, -1, -1, m.host->psi_channels}, "psi", kCuda);
  const auto batch = static_cast<int32_t>(psi.size(0)), h = static_cast<int32_t>(psi.size(1)),
             w = static_cast<int32_t>(psi.size(2));
  check_plane(h, w, m.host->latent_channels);
  check_tensor(y, residual ? ScalarType::Int : ScalarType::Short, {batch, h, w, m.host->latent_channels}, "y", kCuda);
  const Order order(*m.host, h, w, psi, device);
  const ccm::LaunchOptions options = options_of(threads);
  int32_t widest = 0;
  for (int32_t g = 0; g < m.host->groups; ++g) widest = std::max(widest, m.host->group[g].channels);
  const int64_t capacity = ccm::stream_capacity(static_cast<int64_t>(h) * w * widest);
  Tensor y_hat = fresh(psi, {batch, h, w, m.host->latent_channels}, ScalarType::Short);
  Tensor bytes = fresh_bytes(psi, lanes ? batch * m.host->groups * capacity : 0);
  Tensor segments = fresh(psi, {lanes ? batch : 0, m.host->groups, 3}, ScalarType::Long);
  Tensor status = fresh(psi, {batch}, ScalarType::Int);
  const Tensor scratch = scratch_of(psi, ccm::encode_y_scratch(*m.host, batch, h, w, options));
  check_cuda(
      ccm::encode_y(*m.host, m.on_device(), order.view, data<uint8_t>(psi), y.data_ptr(), batch, h, w,
                    static_cast<int32_t>(lanes.value_or(0)), data<int16_t>(y_hat),
                    {lanes ? data<uint8_t>(bytes) : nullptr, capacity, data<int64_t>(segments), data<int32_t>(status)},
                    aligned(scratch), options, device.stream));
  return {bytes, segments, y_hat};
}

std::tuple<Tensor, Tensor> encode_y(Tensor packed, Tensor psi, Tensor y_hat, int64_t lanes, int64_t threads) {
  auto [bytes, segments, settled] = encode_latents(packed, psi, y_hat, lanes, threads, false);
  check(static_cast<const DeviceModel*>(packed.data_ptr())->skip_scale < 0,
        "this model skips symbols: use encode_settled");
  return {bytes, segments};
}

Tensor settled(Tensor packed, Tensor psi, Tensor y_hat, int64_t threads) {
  return std::get<2>(encode_latents(packed, psi, y_hat, std::nullopt, threads, false));
}

// Symbols that are not coded become their offsets: the third tensor is what a decoder will have.
std::tuple<Tensor, Tensor, Tensor> encode_settled(Tensor packed, Tensor psi, Tensor y_hat, int64_t lanes,
                                                  int64_t threads) {
  return encode_latents(packed, psi, y_hat, lanes, threads, false);
}

std::tuple<Tensor, Tensor, Tensor> encode_y_residual(Tensor packed, Tensor psi, Tensor y, int64_t lanes,
                                                     int64_t threads) {
  return encode_latents(packed, psi, y, lanes, threads, true);
}

std::tuple<Tensor, Tensor> encode_z(Tensor packed, Tensor z_hat, int64_t lanes, int64_t threads) {
  (void)threads;
  const Device device(z_hat);
  const Model m(packed, z_hat, device);
  check_code(*m.host, lanes);
  check_tensor(z_hat, ScalarType::Short, {-1, -1, -1, m.host->hyper_channels}, "z_hat", kCuda);
  const auto batch = static_cast<int32_t>(z_hat.size(0)), hz = static_cast<int32_t>(z_hat.size(1)),
             wz = static_cast<int32_t>(z_hat.size(2));
  check_plane(hz, wz, m.host->hyper_channels);
  const int64_t capacity = ccm::stream_capacity(static_cast<int64_t>(hz) * wz * m.host->hyper_channels);
  Tensor bytes = fresh_bytes(z_hat, batch * capacity);
  Tensor segments = fresh(z_hat, {batch, 3}, ScalarType::Long);
  check_cuda(ccm::encode_z(m.on_device(), data<int16_t>(z_hat), batch, hz, wz, static_cast<int32_t>(lanes),
                           {data<uint8_t>(bytes), capacity, data<int64_t>(segments), nullptr}, device.stream));
  return {bytes, segments};
}

#ifdef CCM_EMU
// What torch.cuda.graph() is on a GPU. A graph is its address in a tensor; the tests' few are never freed.
Tensor graph_capture(Tensor any) {
  check_cuda(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal));
  return any;
}
Tensor graph_end(Tensor any) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(nullptr, &graph));
  Tensor out = torch::stable::new_empty(any, {1}, ScalarType::Long);
  *data<int64_t>(out) = reinterpret_cast<int64_t>(graph);
  return out;
}
Tensor graph_replay(Tensor graph) {
  check_cuda(cudaGraphLaunch(reinterpret_cast<cudaGraph_t>(*data<int64_t>(graph)), nullptr));
  return graph;
}
#endif

}  // namespace

#ifdef CCM_EMU
STABLE_TORCH_LIBRARY(ccm_fast_emu, m) {
  m.def("graph_capture(Tensor any) -> Tensor");
  m.def("graph_end(Tensor any) -> Tensor");
  m.def("graph_replay(Tensor graph) -> Tensor");
  m.def("pack_plan_cuda(Tensor plan) -> Tensor");
  m.def("decode_z(Tensor packed, Tensor data, Tensor segments, int hz, int wz, int threads) -> (Tensor, Tensor)");
  m.def("hyper(Tensor packed, Tensor z_hat, int h, int w, int threads) -> Tensor");
  m.def("decode_y(Tensor packed, Tensor psi, Tensor data, Tensor segments, int threads) -> (Tensor, Tensor)");
  m.def(
      "decode_y_restored(Tensor packed, Tensor psi, Tensor data, Tensor segments, Tensor shifts, int threads) -> "
      "(Tensor, Tensor, Tensor)");
  m.def("encode_z(Tensor packed, Tensor z_hat, int lanes, int threads) -> (Tensor, Tensor)");
  m.def("encode_y(Tensor packed, Tensor psi, Tensor y_hat, int lanes, int threads) -> (Tensor, Tensor)");
  m.def("settled(Tensor packed, Tensor psi, Tensor y_hat, int threads) -> Tensor");
  m.def("encode_settled(Tensor packed, Tensor psi, Tensor y_hat, int lanes, int threads) -> (Tensor, Tensor, Tensor)");
  m.def("encode_y_residual(Tensor packed, Tensor psi, Tensor y, int lanes, int threads) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(ccm_fast_emu, CPU, m) {
  m.impl("graph_capture", TORCH_BOX(&graph_capture));
  m.impl("graph_end", TORCH_BOX(&graph_end));
  m.impl("graph_replay", TORCH_BOX(&graph_replay));
  m.impl("pack_plan_cuda", TORCH_BOX(&pack_plan_cuda));
#else
STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) { m.impl("pack_plan_cuda", TORCH_BOX(&pack_plan_cuda)); }
STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CUDA, m) {
#endif
  m.impl("decode_z", TORCH_BOX(&decode_z));
  m.impl("hyper", TORCH_BOX(&hyper));
  m.impl("decode_y", TORCH_BOX(&decode_y));
  m.impl("decode_y_restored", TORCH_BOX(&decode_y_restored));
  m.impl("encode_z", TORCH_BOX(&encode_z));
  m.impl("encode_y", TORCH_BOX(&encode_y));
  m.impl("settled", TORCH_BOX(&settled));
  m.impl("encode_settled", TORCH_BOX(&encode_settled));
  m.impl("encode_y_residual", TORCH_BOX(&encode_y_residual));
}
#endif
