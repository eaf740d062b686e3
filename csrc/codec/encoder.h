// From a picture to the latents and streams of a packet, at efforts without gradients (1 to 3): the choices of
// ccm_fast/encoding.py and ccm_fast/effort, float for float.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "codec/code_length.h"
#include "container/packet.h"
#include "entropy/cpu/context_cpu.h"
#include "model/model.h"
#include "model/weights.h"
#include "transforms/analysis.h"
#include "transforms/synthesis.h"

namespace ccm {

constexpr int kMostEffort = 3;

struct EncodeOptions {
  int32_t quality_code = 96;  // see packet.h
  int effort = 0;             // 1 .. kMostEffort; 0: the default of the model
  int32_t lanes = 0;          // of every stream; 0: chosen by the payload
  int threads = 1;
};

// Seconds of the stages of encoding.
struct EncodeTimes {
  double analysis = 0, hyper_analysis = 0, hyper = 0, effort = 0, entropy = 0, filter = 0;
};

struct EncodedPicture {
  std::vector<EncodedStream> streams;  // z's, then each group's
  std::vector<uint8_t> filter;         // chunk kFilterChunk; empty: none
};

// Bits that a squared error of one unit of kFilterUnits is worth, summed over pixels and colours.
double filter_price(int32_t quality_code, bool grey);

class Encoder {
 public:
  // shifts: of centroids, [rows][2 kShiftReach + 1]; empty where g_s reads whole numbers. All arguments outlive this.
  Encoder(const WeightsFile& file, const PackedModel& model, const Synthesis& synthesis,
          const std::vector<float>& shifts, bool int16);

  std::vector<std::function<void()>> packing() { return analysis_.packing(); }

  // Throws Error: kArgument (an effort or lanes that there are not), kEncode (latents that cannot be coded).
  EncodedPicture encode(const PixelSource& pixels, const EncodeOptions& options, EncodeTimes& times) const;

 private:
  struct Latents;
  int level(int effort) const;
  // Row and offset of every symbol, and what they stand for; y_hat becomes what a decoder will have.
  void parameters(Latents& l, int threads) const;
  float restored(int32_t y, int32_t offset, int32_t row) const;
  void correct(Latents& l, const PixelSource& pixels, const EncodeOptions& options) const;
  void round_towards_mean(Latents& l, bool grey, const EncodeOptions& options) const;
  // What the symbols of y_hat stand for, by the offsets and rows of parameters().
  FloatPlane restored(const Latents& l) const;
  // Streams of y; y_hat becomes what they decode to, and rows and offsets what they are coded with, for filter_of().
  std::vector<EncodedStream> coded(Latents& l, int32_t code, bool filtered, int threads) const;
  std::vector<uint8_t> filter_of(const Latents& l, const PixelSource& pixels, const EncodeOptions& options) const;

  const PackedModel& m_;
  const Synthesis& synthesis_;
  const std::vector<float>& shifts_;
  Analysis analysis_;
  const CodeLength y_bits_;
  const bool squared_error_;  // what the model was trained for
  const bool filters_;
  const int32_t qualities_;
  const std::vector<float> log_gain_, sensitivities_;
};

}  // namespace ccm
