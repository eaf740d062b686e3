// What the decoder of a batch keeps of an image and of a thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "entropy/cpu/context_cpu.h"
#include "entropy/cpu/group_cpu.h"
#include "entropy/cpu/rans_cpu.h"
#include "entropy/cpu/share.h"

namespace ccm {

// StepBuffers of one thread for the symbols of a step.
struct StepBuffers {
  Share* share = nullptr;
  StepScratch scratch;
  std::vector<uint16_t> rows;
  std::vector<int16_t> offsets, symbols, zeros;  // offsets: mean codes in residual models
  // Of those symbols of the step that are coded: where they are, and the same as above.
  std::vector<int32_t> places;
  std::vector<uint16_t> coded_rows;
  std::vector<int16_t> coded_offsets, coded_symbols;

  void fit(size_t n, bool skips) {
    if (rows.size() < n) rows.resize(n), offsets.resize(n), symbols.resize(n), zeros.resize(n);
    if (skips && places.size() < n)
      places.resize(n), coded_rows.resize(n), coded_offsets.resize(n), coded_symbols.resize(n);
  }
};

// An image to be decoded or to be encoded: the same steps in the same order.
struct BatchJob {
  const uint8_t* psi;
  int16_t* y;
  const Segment* streams;  // of a decoder
  Status* status;
  const int32_t* latents;    // of an encoder of residuals
  EncodedStream* encoded;    // of an encoder, if wanted
  uint16_t* rows = nullptr;  // if wanted
  int16_t* offsets = nullptr;
  float* values = nullptr;
  const float* shifts = nullptr;
  const int16_t* known = nullptr;    // of any other encoder
  int32_t groups_read = kMaxGroups;  // of a decoder
  const float* means = nullptr;
  Area wanted{};  // of values
};

// One image under way.
struct BatchImage {
  BatchImage(const PackedModel& m, const Kernels& k, int32_t h, int32_t w, int32_t count, const BatchJob& j)
      : job(j), context(k, h, w, m.plane_channels, kLatentZero, true), steps_done(count), busy(count) {
    for (int32_t g = 0; g < count; ++g) {
      groups.emplace_back(m, k, g, h, w);
      if (!j.streams) continue;
      const Segment& s = j.streams[g];
      streams.emplace_back(s.data, static_cast<size_t>(s.size), s.code, rans_vectors(k));
    }
    symbols.resize(j.streams ? 0 : count);
    coded.resize(symbols.size());
  }
  const BatchJob job;
  Plane context;
  std::vector<Group> groups;
  std::vector<StreamDecoder> streams;       // of a decoder
  std::vector<std::vector<Coded>> symbols;  // of an encoder, in coding order
  std::vector<std::vector<int32_t>> coded;  // of an encoder, how many of them each step has
  std::vector<int32_t> steps_done;
  std::vector<uint8_t> busy;  // a thread is running steps of the group
  int32_t running = 0;        // tasks under way
  bool failed = false;
};

}  // namespace ccm
