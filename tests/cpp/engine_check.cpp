// Drives the CPU engine under sanitizers, without torch or Python. Prints "ok" and exits with 0 when all is as
// expected.
//
//   engine_check FOLDER H W THREADS FUZZ
//
// FOLDER holds plan, z, y (bytes of int16; for residual models y is what to encode, in 1/16). Encodes, decodes on
// THREADS threads, alone and as a batch, then decodes FUZZ damaged copies of the streams and packs FUZZ damaged copies
// of the plan.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "entropy/cpu/context_cpu.h"
#include "entropy/cpu/pack.h"
#include "entropy/cpu/rans_kernels.h"

#if defined(CCM_HAVE_AVX2)
// The linker sends the engine's calls of ccm::avx2_rounds here (--wrap): scalar kernels must not come along.
static int vector_rans = 0;
extern "C" ccm::RansRounds __real__ZN3ccm11avx2_roundsEi(int32_t lanes);
extern "C" ccm::RansRounds __wrap__ZN3ccm11avx2_roundsEi(int32_t lanes) {
  ++vector_rans;
  return __real__ZN3ccm11avx2_roundsEi(lanes);
}
#endif

namespace {

using checking::read_file;
using checking::read_latents;
using checking::require;

using Bytes = std::vector<std::vector<uint8_t>>;

// Returns everything that another instruction set has to get identically: psi, the streams, y_hat and the rows.
Bytes check(const ccm::PackedModel& m, const std::vector<int16_t>& z, std::vector<int16_t> y, int h, int w, int threads,
            int fuzz) {
  const int hz = (h + 3) / 4, wz = (w + 3) / 4;
  const ccm::EncodedStream z_stream = ccm::encode_z(m, z.data(), hz, wz, 0);
  std::vector<int16_t> z_out(z.size());
  require(ccm::decode_z(m, {z_stream.bytes.data(), static_cast<int64_t>(z_stream.bytes.size()), z_stream.code}, hz, wz,
                        z_out.data()) == ccm::kOk,
          "z does not decode");
  require(z_out == z, "z differs");

  std::vector<uint8_t> psi(static_cast<size_t>(h) * w * m.psi_channels);
  ccm::hyper(m, z.data(), hz, wz, h, w, threads, psi.data());
  constexpr int kBatch = 3;
  std::vector<ccm::EncodedStream> streams;
  if (m.residual) {
    std::vector<int32_t> latents;
    for (int16_t v : y) latents.push_back(std::clamp(16 * v + 5, -ccm::kResidualLimit, ccm::kResidualLimit));
    std::vector<std::vector<ccm::EncodedStream>> found(kBatch, std::vector<ccm::EncodedStream>(m.groups));
    std::vector<std::vector<int16_t>> y_hat(kBatch, y);
    std::vector<ccm::ResidualJob> jobs;
    for (int b = 0; b < kBatch; ++b) jobs.push_back({psi.data(), latents.data(), y_hat[b].data(), found[b].data()});
    ccm::encode_y_residual(m, h, w, 4, threads, jobs);
    for (int b = 1; b < kBatch; ++b)
      for (int g = 0; g < m.groups; ++g) require(found[b][g].bytes == found[0][g].bytes, "encoders of a batch differ");
    streams = found[0];
    y = y_hat[0];
  } else {
    streams = ccm::encode_y(m, psi.data(), y.data(), h, w, 4, threads);
  }
  std::vector<uint16_t> rows(y.size());
  std::vector<int16_t> offsets(y.size());
  ccm::parameters(m, psi.data(), y.data(), h, w, threads, rows.data(), offsets.data());
  std::vector<ccm::Segment> segments;
  for (const auto& s : streams) segments.push_back({s.bytes.data(), static_cast<int64_t>(s.bytes.size()), s.code});

  std::vector<std::vector<int16_t>> out(kBatch, std::vector<int16_t>(y.size()));
  std::vector<ccm::DecodeJob> jobs;
  for (auto& o : out) jobs.push_back({psi.data(), segments.data(), o.data(), ccm::kOk});
  ccm::decode_y(m, h, w, threads, jobs);
  for (int b = 0; b < kBatch; ++b) {
    require(jobs[b].status == ccm::kOk, "y does not decode");
    require(out[b] == y, "y differs");
  }

  std::mt19937 random(1);
  for (int i = 0; i < fuzz; ++i) {
    // Exact-size copies, so that a read past the end is a read past an allocation.
    std::vector<std::vector<uint8_t>> broken;
    for (const auto& s : streams) broken.push_back(s.bytes);
    auto& victim = broken[random() % broken.size()];
    if (i % 3 == 0) victim.resize(random() % (victim.size() + 1));
    if (i % 3 == 1) victim[random() % victim.size()] ^= static_cast<uint8_t>(1u << random() % 8);
    if (i % 3 == 2)
      for (auto& b : victim) b = static_cast<uint8_t>(random());
    std::vector<ccm::Segment> parts;
    for (size_t g = 0; g < broken.size(); ++g)
      parts.push_back({broken[g].data(), static_cast<int64_t>(broken[g].size()), streams[g].code});
    std::vector<ccm::DecodeJob> job{{psi.data(), parts.data(), out[0].data(), ccm::kOk}};
    ccm::decode_y(m, h, w, threads, job);
    if (job[0].status == ccm::kOk && i % 3 != 1) require(out[0] == y, "damage was taken for other latents");
  }
  // Many lanes go through kernels of their own; exact-size copies again.
  for (int i = 0; i < 4 && !m.residual; ++i) {
    const auto wide = ccm::encode_y(m, psi.data(), y.data(), h, w, i % 2 ? 32 : 8, threads);
    std::vector<std::vector<uint8_t>> copies;
    std::vector<ccm::Segment> parts;
    for (const auto& s : wide) {
      copies.push_back(s.bytes);
      if (i >= 2) copies.back().resize(s.bytes.size() - 2 * (random() % 8));
    }
    for (size_t g = 0; g < wide.size(); ++g)
      parts.push_back({copies[g].data(), static_cast<int64_t>(copies[g].size()), wide[g].code});
    std::vector<ccm::DecodeJob> job{{psi.data(), parts.data(), out[0].data(), ccm::kOk}};
    ccm::decode_y(m, h, w, threads, job);
    if (i < 2) require(job[0].status == ccm::kOk && out[0] == y, "y with many lanes differs");
  }
  Bytes result{psi, z_stream.bytes};
  for (const auto& s : streams) result.push_back(s.bytes);
  for (const auto& [from, size] :
       {std::pair<const void*, size_t>{y.data(), 2 * y.size()}, {rows.data(), 2 * rows.size()}})
    result.emplace_back(static_cast<const uint8_t*>(from), static_cast<const uint8_t*>(from) + size);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    require(argc == 6, "usage: engine_check FOLDER H W THREADS FUZZ");
    const std::string folder = argv[1];
    const int h = std::atoi(argv[2]), w = std::atoi(argv[3]), threads = std::atoi(argv[4]), fuzz = std::atoi(argv[5]);
    const std::vector<uint8_t> plan = read_file(folder + "/plan");
    const std::vector<int16_t> z = read_latents(folder + "/z"), y = read_latents(folder + "/y");
    Bytes expected;
    std::string names;
    for (int isa = 0; isa < ccm::kIsaCount; ++isa) {
      const ccm::Kernels* kernels = ccm::kernels_for(static_cast<ccm::Isa>(isa));
      if (!kernels) continue;
      const std::vector<uint8_t> packed = ccm::pack_plan(plan.data(), plan.size(), *kernels);
      const Bytes result = check(ccm::open_packed(packed.data(), packed.size()), z, y, h, w, threads, fuzz);
      if (expected.empty()) expected = result;
      require(result == expected, "instruction sets differ");
#if defined(CCM_HAVE_AVX2)
      require((vector_rans > 0) == (isa != ccm::kIsaScalar),
              "vector rANS beside scalar kernels, or none beside others");
#endif
      names += std::string(" ") + kernels->name;
    }
    std::mt19937 random(2);
    int refused = 0;
    for (int i = 0; i < fuzz; ++i) {
      std::vector<uint8_t> broken = plan;
      if (i % 4 == 0) broken.resize(random() % broken.size());
      if (!broken.empty())
        broken[random() % std::min<size_t>(broken.size(), i % 2 ? broken.size() : 400)] =
            static_cast<uint8_t>(random());
      try {
        const auto packed = ccm::pack_plan(broken.data(), broken.size(), ccm::best_kernels());
        const ccm::PackedModel& m = ccm::open_packed(packed.data(), packed.size());
        if (m.latent_channels * static_cast<size_t>(h) * w == y.size() && z.size() % m.hyper_channels == 0 &&
            m.hyper_channels * static_cast<size_t>((h + 3) / 4) * ((w + 3) / 4) == z.size())
          check(m, z, y, h, w, threads, 0);
      } catch (const ccm::PlanError&) {
        ++refused;
      }
    }
    require(fuzz == 0 || refused > fuzz / 10, "damaged plans are not refused");
    std::printf("ok%s\n", names.c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "engine_check: %s\n", e.what());
    return 1;
  }
  return 0;
}
