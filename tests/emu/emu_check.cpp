// The emulated CUDA engine against the CPU engine, as a program that a sanitizer can watch from its start.
//
//   engine FOLDER H W BATCH THREADS BLOCKS SHARED LANES FUZZ CREW
//
// FOLDER holds plan, z, y (bytes of int16, one image); residual models are left to the tests in Python. Prints "ok",
// or "error: ..." where a launch failed, a launch path did what a CUDA graph cannot hold, or results differ.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "check.h"
#include "emu_engine.h"
#include "entropy/cpu/context_cpu.h"
#include "format/rans.h"

namespace {

using checking::read_file;
using checking::read_latents;
using checking::require;

struct Streams {
  std::vector<uint8_t> data;
  std::vector<int64_t> segments;
  void add(const std::vector<uint8_t>& bytes, int64_t lanes) {
    segments.insert(segments.end(), {static_cast<int64_t>(data.size()), static_cast<int64_t>(bytes.size()), lanes});
    data.insert(data.end(), bytes.begin(), bytes.end());
  }
  int64_t size() const { return static_cast<int64_t>(data.size()); }
};

// The streams of an image, whose y becomes what a decoder will have: symbols that are not coded are their offsets.
std::vector<ccm::EncodedStream> encode_settled(const ccm::PackedModel& m, const std::vector<uint8_t>& psi,
                                               std::vector<int16_t>& y, int h, int w, int code) {
  const std::vector<int16_t> known = y;
  std::vector<ccm::EncodedStream> streams(m.groups);
  ccm::settle_y(m, h, w, code, 1, {{psi.data(), known.data(), y.data(), streams.data(), nullptr, nullptr}});
  return streams;
}

// One image from the streams to y as a captured graph, which is then replayed on streams of other latents.
class CapturedDecoder {
 public:
  CapturedDecoder(const ccm::DeviceModel& m, const ccm::LaunchOptions& options, int h, int w, int64_t capacity)
      : z_(emu_engine::garbage<int16_t>(int64_t{(h + 3) / 4} * ((w + 3) / 4) * m.hyper_channels)),
        y_(emu_engine::garbage<int16_t>(int64_t{h} * w * m.latent_channels)),
        data_(static_cast<size_t>(capacity)),
        psi_(static_cast<size_t>(h) * w * m.psi_channels),
        segments_(3 * (1 + m.groups)),
        order_(ccm::build_order(m, h, w)) {
    const int hz = (h + 3) / 4, wz = (w + 3) / 4;
    hyper_scratch_ = emu_engine::garbage<uint8_t>(ccm::hyper_scratch(m, 1, hz, wz));
    scratch_ = emu_engine::garbage<uint8_t>(ccm::latents_scratch(m, 1, h, w, options));
    cudaGraph_t graph = nullptr;
    emu_engine::require(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal));
    emu_engine::require(
        ccm::decode_z(&m, data_.data(), capacity, segments_.data(), 1, hz, wz, z_.data(), status_, options, nullptr));
    emu_engine::require(ccm::hyper(m, &m, z_.data(), 1, h, w, psi_.data(), hyper_scratch_.data(), options, nullptr));
    emu_engine::require(ccm::decode_y(m, &m, ccm::view_order(order_.data(), order_.data()), psi_.data(), data_.data(),
                                      capacity, segments_.data() + 3, 1, h, w, y_.data(), status_ + 1, {},
                                      scratch_.data(), options, nullptr));
    emu_engine::require(cudaStreamEndCapture(nullptr, &graph));
    emu_engine::require(cudaGraphInstantiate(&exec_, graph));
    emu_engine::require(cudaGraphDestroy(graph));
  }
  ~CapturedDecoder() { cudaGraphExecDestroy(exec_); }

  const std::vector<int16_t>& decode(const Streams& streams) {
    std::copy(streams.data.begin(), streams.data.end(), data_.begin());
    std::copy(streams.segments.begin(), streams.segments.end(), segments_.begin());
    emu_engine::require(cudaGraphLaunch(exec_, nullptr));
    return y_;
  }
  bool fine() const { return status_[0] == 0 && status_[1] == 0; }

 private:
  std::vector<int16_t> z_, y_;
  std::vector<uint8_t> data_, psi_, hyper_scratch_, scratch_;
  std::vector<int64_t> segments_;
  std::vector<int32_t> order_;
  int32_t status_[2] = {-1, -1};
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) try {
  require(argc == 11, "usage: engine FOLDER H W BATCH THREADS BLOCKS SHARED LANES FUZZ CREW");
  const std::string folder = argv[1];
  int n[9];
  for (int i = 0; i < 9; ++i) n[i] = std::atoi(argv[2 + i]);
  const int h = n[0], w = n[1], batch = n[2], lanes = n[6], fuzz = n[7], hz = (h + 3) / 4, wz = (w + 3) / 4;
  const std::vector<uint8_t> plan = read_file(folder + "/plan");
  const std::vector<int16_t> z = read_latents(folder + "/z");
  std::vector<int16_t> y = read_latents(folder + "/y");

  const std::vector<uint8_t> packed = ccm::pack_plan(plan.data(), plan.size(), ccm::best_kernels());
  const ccm::PackedModel& m = ccm::open_packed(packed.data(), packed.size());
  std::vector<uint8_t> psi(static_cast<size_t>(h) * w * m.psi_channels);
  ccm::hyper(m, z.data(), hz, wz, h, w, 1, psi.data());
  const auto z_stream = ccm::encode_z(m, z.data(), hz, wz, lanes);
  const auto y_streams = encode_settled(m, psi, y, h, w, lanes);

  const std::vector<uint8_t> model = emu_engine::pack(plan.data(), plan.size());
  const emu_engine::Engine engine{*reinterpret_cast<const ccm::DeviceModel*>(model.data()), {n[3], n[4], n[5], n[8]}};
  Streams coded_z, coded_y;
  std::vector<int16_t> all_y, all_z;
  std::vector<uint8_t> all_psi;
  for (int b = 0; b < batch; ++b) {
    coded_z.add(z_stream.bytes, z_stream.code);
    for (const auto& s : y_streams) coded_y.add(s.bytes, s.code);
    all_z.insert(all_z.end(), z.begin(), z.end());
    all_y.insert(all_y.end(), y.begin(), y.end());
    all_psi.insert(all_psi.end(), psi.begin(), psi.end());
  }
  const std::vector<int32_t> fine(batch, 0);

  auto status = emu_engine::garbage<int32_t>(batch);
  auto out_z = emu_engine::garbage<int16_t>(static_cast<int64_t>(all_z.size()));
  engine.decode_z(coded_z.data.data(), coded_z.size(), coded_z.segments.data(), batch, hz, wz, out_z.data(),
                  status.data());
  require(status == fine && out_z == all_z, "z differs");
  auto out_psi = emu_engine::garbage<uint8_t>(static_cast<int64_t>(all_psi.size()));
  engine.hyper(out_z.data(), batch, h, w, out_psi.data());
  require(out_psi == all_psi, "psi differs");
  auto out_y = emu_engine::garbage<int16_t>(static_cast<int64_t>(all_y.size()));
  engine.decode_y(all_psi.data(), coded_y.data.data(), coded_y.size(), coded_y.segments.data(), batch, h, w,
                  out_y.data(), status.data());
  require(status == fine && out_y == all_y, "y differs");

  // Latents of the other sign: other psi, other streams. Channels of z that are not coded keep their values.
  std::vector<int16_t> z2 = z, y2 = y;
  const uint16_t* channels = m.at<uint16_t>(m.z_channels);
  for (int p = 0; p < hz * wz; ++p)
    for (int c = 0; c < m.z_coded; ++c) {
      int16_t& value = z2[p * m.hyper_channels + channels[c]];
      value = static_cast<int16_t>(-value);
    }
  for (int16_t& value : y2) value = static_cast<int16_t>(-value);
  std::vector<uint8_t> psi2(psi.size());
  ccm::hyper(m, z2.data(), hz, wz, h, w, 1, psi2.data());
  Streams one, two;
  one.add(z_stream.bytes, z_stream.code);
  for (const auto& s : y_streams) one.add(s.bytes, s.code);
  const auto z2_stream = ccm::encode_z(m, z2.data(), hz, wz, lanes);
  two.add(z2_stream.bytes, z2_stream.code);
  for (const auto& s : encode_settled(m, psi2, y2, h, w, lanes)) two.add(s.bytes, s.code);
  CapturedDecoder graph(engine.m, engine.options, h, w, std::max(one.size(), two.size()));
  for (int turn = 0; turn < 2; ++turn) {
    require(graph.decode(two) == y2 && graph.fine(), "a replayed graph decodes other latents");
    require(graph.decode(one) == y && graph.fine(), "a graph replayed again decodes other latents");
  }
  Streams cut = two;
  cut.segments[4] = 0;  // the first group's length
  graph.decode(cut);
  require(!graph.fine(), "a replayed graph does not see damage");

  {
    const int groups = static_cast<int>(y_streams.size());
    const int64_t capacity = ccm::stream_capacity(static_cast<int64_t>(y.size()));
    auto bytes = emu_engine::garbage<uint8_t>(capacity * batch * groups);
    auto segments = emu_engine::garbage<int64_t>(batch * groups * 3);
    engine.encode_y(all_psi.data(), all_y.data(), batch, h, w, lanes, out_y.data(),
                    {bytes.data(), capacity, segments.data(), status.data()});
    require(status == fine && out_y == all_y, "encoding changes y");
    for (int s = 0; s < batch * groups; ++s) {
      const uint8_t* begin = bytes.data() + segments[s * 3];
      require(std::vector<uint8_t>(begin, begin + segments[s * 3 + 1]) == y_streams[s % groups].bytes,
              "streams differ");
    }
  }

  std::mt19937 random(1);
  for (int i = 0; i < fuzz; ++i) {
    Streams broken;
    for (int b = 0; b < batch; ++b)
      for (const auto& s : y_streams) {
        std::vector<uint8_t> one = s.bytes;
        if (b == 0 && i % 3 == 0) one.resize(random() % (one.size() + 1));
        if (b == 0 && i % 3 == 1) one[random() % one.size()] ^= static_cast<uint8_t>(1u << random() % 8);
        if (b == 0 && i % 3 == 2)
          for (auto& v : one) v = static_cast<uint8_t>(random());
        broken.add(one, s.code);
      }
    engine.decode_y(all_psi.data(), broken.data.data(), broken.size(), broken.segments.data(), batch, h, w,
                    out_y.data(), status.data());
    for (int b = 1; b < batch; ++b) require(status[b] == 0, "damage spreads to another image");
  }
  std::puts("ok");
  return 0;
} catch (const std::exception& e) {
  std::printf("error: %s\n", e.what());
  return 3;
}
