// The emulated CUDA engine against the CPU engine, as a program that a sanitizer can watch from its start.
//
//   engine FOLDER H W BATCH THREADS BLOCKS SHARED LANES FUZZ
//
// FOLDER holds plan, z, y (bytes of int16, one image); residual models are left to the tests in Python. Prints "ok",
// or "error: ..." where a launch failed or results differ.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

#include "cpu/context_cpu.h"
#include "emu_engine.h"

namespace {

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}
std::vector<int16_t> read_latents(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path);
  std::vector<int16_t> v(bytes.size() / 2);
  std::memcpy(v.data(), bytes.data(), 2 * v.size());
  return v;
}
void expect(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

struct Streams {
  std::vector<uint8_t> data;
  std::vector<int64_t> segments;
  void add(const std::vector<uint8_t>& bytes, int64_t lanes) {
    segments.insert(segments.end(), {static_cast<int64_t>(data.size()), static_cast<int64_t>(bytes.size()), lanes});
    data.insert(data.end(), bytes.begin(), bytes.end());
  }
  int64_t size() const { return static_cast<int64_t>(data.size()); }
};

}  // namespace

int main(int argc, char** argv) try {
  expect(argc == 10, "usage: engine FOLDER H W BATCH THREADS BLOCKS SHARED LANES FUZZ");
  const std::string folder = argv[1];
  int n[8];
  for (int i = 0; i < 8; ++i) n[i] = std::atoi(argv[2 + i]);
  const int h = n[0], w = n[1], batch = n[2], lanes = n[6], fuzz = n[7], hz = (h + 3) / 4, wz = (w + 3) / 4;
  const std::vector<uint8_t> plan = read_file(folder + "/plan");
  const std::vector<int16_t> z = read_latents(folder + "/z"), y = read_latents(folder + "/y");

  const std::vector<uint8_t> packed = ccm::pack_plan(plan.data(), plan.size(), ccm::best_kernels());
  const ccm::PackedModel& m = ccm::open_packed(packed.data(), packed.size());
  std::vector<uint8_t> psi(static_cast<size_t>(h) * w * m.psi_channels);
  ccm::hyper(m, z.data(), hz, wz, h, w, 1, psi.data());
  const auto z_stream = ccm::encode_z(m, z.data(), hz, wz, lanes);
  const auto y_streams = ccm::encode_y(m, psi.data(), y.data(), h, w, lanes, 1);

  const std::vector<uint8_t> model = emu_engine::pack(plan.data(), plan.size());
  const emu_engine::Engine engine{*reinterpret_cast<const ccm::DeviceModel*>(model.data()), {n[3], n[4], n[5]}};
  Streams coded_z, coded_y;
  std::vector<int16_t> all_y, all_z;
  std::vector<uint8_t> all_psi;
  for (int b = 0; b < batch; ++b) {
    coded_z.add(z_stream.bytes, z_stream.lanes);
    for (const auto& s : y_streams) coded_y.add(s.bytes, s.lanes);
    all_z.insert(all_z.end(), z.begin(), z.end());
    all_y.insert(all_y.end(), y.begin(), y.end());
    all_psi.insert(all_psi.end(), psi.begin(), psi.end());
  }
  const std::vector<int32_t> fine(batch, 0);

  auto status = emu_engine::garbage<int32_t>(batch);
  auto out_z = emu_engine::garbage<int16_t>(static_cast<int64_t>(all_z.size()));
  engine.decode_z(coded_z.data.data(), coded_z.size(), coded_z.segments.data(), batch, hz, wz, out_z.data(),
                  status.data());
  expect(status == fine && out_z == all_z, "z differs");
  auto out_psi = emu_engine::garbage<uint8_t>(static_cast<int64_t>(all_psi.size()));
  engine.hyper(out_z.data(), batch, h, w, out_psi.data());
  expect(out_psi == all_psi, "psi differs");
  auto out_y = emu_engine::garbage<int16_t>(static_cast<int64_t>(all_y.size()));
  engine.decode_y(all_psi.data(), coded_y.data.data(), coded_y.size(), coded_y.segments.data(), batch, h, w,
                  out_y.data(), status.data());
  expect(status == fine && out_y == all_y, "y differs");

  const int groups = static_cast<int>(y_streams.size());
  const int64_t capacity = ccm::stream_capacity(static_cast<int64_t>(y.size()));
  auto bytes = emu_engine::garbage<uint8_t>(capacity * batch * groups);
  auto segments = emu_engine::garbage<int64_t>(batch * groups * 3);
  engine.encode_y(all_psi.data(), all_y.data(), batch, h, w, lanes, out_y.data(),
                  {bytes.data(), capacity, segments.data(), status.data()});
  expect(status == fine && out_y == all_y, "encoding changes y");
  for (int s = 0; s < batch * groups; ++s) {
    const uint8_t* begin = bytes.data() + segments[s * 3];
    expect(std::vector<uint8_t>(begin, begin + segments[s * 3 + 1]) == y_streams[s % groups].bytes, "streams differ");
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
        broken.add(one, s.lanes);
      }
    engine.decode_y(all_psi.data(), broken.data.data(), broken.size(), broken.segments.data(), batch, h, w,
                    out_y.data(), status.data());
    for (int b = 1; b < batch; ++b) expect(status[b] == 0, "damage spreads to another image");
  }
  std::puts("ok");
  return 0;
} catch (const std::exception& e) {
  std::printf("error: %s\n", e.what());
  return 3;
}
