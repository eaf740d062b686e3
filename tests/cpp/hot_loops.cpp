// The engine's hot loops, each in a function hot_* of its own, for callgrind (tests/instructions.py). Prints one line
// per call, in order: name and units of work. Everything is drawn with integers, so that counts are the same
// everywhere.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <valgrind/callgrind.h>

#include "base/crc32c.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/rans_cpu.h"
#include "format/rans.h"
#include "model/rows.h"

namespace {

uint32_t seed = 1;
uint32_t next() { return seed = seed * 1664525u + 1013904223u, seed >> 16; }

// Counts what `body` executes.
template <class Body>
void count(Body body) {
  CALLGRIND_ZERO_STATS;
  body();
  CALLGRIND_DUMP_STATS;
}

void report(const std::string& name, double units) { std::printf("%s %.0f\n", name.c_str(), units); }

void kernels(const ccm::Kernels& k) {
  constexpr int kRows = 64, kTaps = 12, kK = 96, kN = 128;  // a wavefront step of ccm-small, about
  const std::string isa = k.name;
  std::vector<uint8_t> x(static_cast<size_t>(kRows) * kTaps * kK * k.element_bytes);
  std::vector<uint8_t> w(static_cast<size_t>(kTaps) * kK * kN * k.element_bytes);
  for (auto* v : {&x, &w})
    for (size_t i = 0; i < v->size(); i += k.element_bytes) (*v)[i] = static_cast<uint8_t>(next() & 127);
  std::vector<int32_t> init(kN, 5), out(kRows * kN), mult(kN, 1 << 20), shift(kN, 40);
  std::vector<int32_t> offsets;
  for (int t = 0; t < kTaps; ++t) offsets.push_back(t * kK);
  std::vector<const void*> rows;
  for (int m = 0; m < kRows; ++m) rows.push_back(x.data() + static_cast<size_t>(m) * kTaps * kK * k.element_bytes);
  const std::vector<const int32_t*> inits(kRows, init.data());
  const ccm::GemmArgs product{rows.data(), offsets.data(), w.data(), inits.data(), out.data(),
                              kN,          kRows,          kTaps,    kK,           kN};
  count([&] { k.gemm(product); });
  report("gemm " + isa, static_cast<double>(kRows) * kTaps * kK * kN);

  const ccm::RequantizeArgs block{out.data(), kN, mult.data(), shift.data(), kN, kRows, kN};
  std::vector<int32_t> scaled(kRows * kN);
  count([&] { k.relu8(block, scaled.data()); });
  report("relu8 " + isa, kRows * kN);
  count([&] { k.accumulate(block, scaled.data()); });
  report("accumulate " + isa, kRows * kN);
  count([&] { k.rescale(block, scaled.data()); });
  report("rescale " + isa, kRows * kN);

  constexpr int kChannels = kN / 2;
  std::vector<int32_t> scales(64, 1 << ccm::kScaleBits);
  std::vector<uint16_t> chosen(kRows * kChannels);
  std::vector<int16_t> distances(chosen.size());
  count([&] {
    k.choose({scaled.data(), kN, scales.data(), 63, kChannels, kRows, false, chosen.data(), distances.data()});
  });
  report("choose " + isa, kRows * kChannels);
}

// Winograd's integer transforms: per input, and per sum.
void points(const ccm::Kernels& k) {
  if (!k.to_points) return;
  constexpr int kChannels = 64, kPoints = 36;
  const std::string isa = k.name;
  std::vector<int16_t> patch(kPoints * kChannels), at(kPoints * kChannels);
  for (int16_t& v : patch) v = static_cast<int16_t>(next() & 255);
  std::vector<const void*> pixels;
  for (int p = 0; p < kPoints; ++p) pixels.push_back(&patch[p * kChannels]);
  count([&] { k.to_points({pixels.data(), kChannels, at.data(), kChannels}); });
  report("to_points " + isa, kPoints * kChannels);
  std::vector<int32_t> products(kPoints * kChannels), init(kChannels), sums(16 * kChannels);
  for (int32_t& v : products) v = static_cast<int32_t>(next());
  const ccm::FromPointsArgs args{products.data(), kChannels, init.data(), sums.data(),
                                 4 * kChannels,   kChannels, kChannels};
  count([&] { k.from_points3(args); });
  report("from_points 3x3 " + isa, 16 * kChannels);
  count([&] { k.from_points5(args); });
  report("from_points 5x5 " + isa, 8 * kChannels);
}

// Rows of two-sided geometric decay, from sharp (nine in ten symbols the same) to wide, with up to 200 entries.
ccm::OwnedRows make_rows() {
  std::vector<int32_t> lo, n;
  std::vector<uint16_t> cdf;
  for (int32_t r = 0; r < 32; ++r) {
    const int32_t reach = 3 + r * r / 10;
    std::vector<uint32_t> f(2 * reach + 2, 1);
    const uint32_t keep = 4 + 7 * r;  // of 256, from one entry to the next outwards
    uint32_t left = 65536 - static_cast<uint32_t>(f.size());
    uint32_t value = left * (256 - keep) / (256 + keep);
    for (int32_t d = 0; d <= reach; ++d, value = value * keep / 256)
      for (int side = 0; side < (d ? 2 : 1); ++side) {
        const uint32_t take = std::min(left, value);
        f[side ? reach - d : reach + d] += take;
        left -= take;
      }
    f[reach] += left;
    lo.push_back(-reach);
    n.push_back(static_cast<int32_t>(f.size()));
    uint32_t sum = 0;
    for (uint32_t v : f) {
      cdf.push_back(static_cast<uint16_t>(sum));
      sum += v;
    }
  }
  return ccm::build_rows(lo, n, cdf);
}

void coder() {
  constexpr int32_t kSymbols = 24000, kStep = 24 * 20;
  const ccm::OwnedRows owned = make_rows();
  const ccm::Rows tables = owned.view();
  std::vector<ccm::Coded> symbols;
  std::vector<uint16_t> rows;
  std::vector<int16_t> offsets, want, out(kSymbols);
  for (int32_t i = 0; i < kSymbols; ++i) {
    // Sharp rows mostly, alike within a run of 24: the mean of two of them is nearer the sharp end.
    const uint32_t level = i % 24 ? rows.back() : next() % 32 * (next() % 32) / 32;
    const uint16_t row = static_cast<uint16_t>(std::min(31u, next() % 4 ? level : next() % 32 * level / 32));
    const uint32_t slot = next() & 0xffff;
    const ccm::RowInfo& info = tables.info[row];
    int32_t k = 0;
    while (k + 1 < info.count && (tables.entries[info.first + k + 1] & 0xffff) <= slot) ++k;
    const int32_t value = k + 1 == info.count ? info.lo + info.count + 3 : info.lo + k;
    symbols.push_back({value, row});
    rows.push_back(row);
    offsets.push_back(static_cast<int16_t>(next() % 7) - 3);
    want.push_back(static_cast<int16_t>(value + offsets.back()));
  }
  const std::vector<int32_t> steps(kSymbols / kStep, kStep);
  std::vector<uint8_t> bytes;
  for (int32_t lanes : {1, 2, 8, 32}) {
    int32_t used = 0;
    count([&] { bytes = ccm::encode_stream(tables, symbols, steps, lanes, &used); });
    report("rans_encode " + std::to_string(lanes), kSymbols);
    for (const auto& [vectors, name] :
         {std::pair{ccm::Vectors::kNone, " scalar"}, std::pair{ccm::Vectors::kBaseline, ""},
          std::pair{ccm::Vectors::kBest, " avx2"}}) {
      if (vectors == ccm::Vectors::kBest && !ccm::vector_rounds(lanes)) continue;
      ccm::StreamDecoder decoder(bytes.data(), bytes.size(), lanes, vectors);
      count([&] {
        size_t at = 0;
        for (int32_t n : steps) {
          decoder.decode_step(tables, &rows[at], &offsets[at], n, &out[at]);
          at += static_cast<size_t>(n);
        }
      });
      report("rans_decode " + std::to_string(lanes) + name, kSymbols);
      if (decoder.finish() != ccm::kOk || out != want) std::puts("WRONG 0");
    }
  }
  bytes.resize(1 << 16);
  static volatile uint32_t keep;
  count([&] { keep = ccm::crc32c(bytes.data(), bytes.size(), 0); });
  report("crc32c", 1 << 16);
}

}  // namespace

int main() {
  for (int isa = 0; isa < ccm::kIsaCount; ++isa)
    if (const ccm::Kernels* k = ccm::kernels_for(static_cast<ccm::Isa>(isa))) {
      kernels(*k);
      points(*k);
    }
  coder();
  return 0;
}
