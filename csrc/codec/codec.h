// The codec of one model, without torch, NumPy or Python: bytes of a .ccm file to pixels, and back.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "codec/encoder.h"
#include "container/container.h"
#include "container/filter_chunk.h"
#include "container/packet.h"
#include "model/model.h"
#include "model/weights.h"
#include "transforms/synthesis.h"

namespace ccm {

// Cores that this process may use, at least 1.
int default_threads();

struct CodecOptions {
  int threads = 1;                // for packing
  bool float_transforms = false;  // products of floats even where those of 16-bit integers are faster
  const char* isa = "";           // instruction set of the entropy path; "": as CCM_FAST_ISA says, else the best
};

// A rectangle of a picture, in its pixels.
struct Region {
  int64_t x, y, width, height;
};

// Throws Error, kArgument, unless it has pixels and lies within a picture of that size.
void check_region(const Region& region, int64_t width, int64_t height);

// Seconds of the stages of decoding.
struct DecodeTimes {
  double z = 0, hyper = 0, entropy = 0, synthesis = 0;
};

// What a decoder may be asked for beside the pixels.
struct DecodeExtras {
  int16_t* latents = nullptr;  // y_hat, [h][w][M]
  DecodeTimes* times = nullptr;
  const PictureFilter* filter = nullptr;  // of the file; reduced pictures and previews do without
};

// The picture filter of a file, if it has one. Throws Error (kDamaged).
std::optional<PictureFilter> filter_of(const Container& container, bool grey);

// Immutable once made; threads may share it.
class Codec {
 public:
  // Reads, checks and packs a model for decoding. Throws Error: kModel, kArgument (no such instruction set).
  Codec(Bytes weights, const CodecOptions& options);
  Codec(const Codec&) = delete;

  const Fingerprint& fingerprint() const { return fingerprint_; }
  const PackedModel& entropy_model() const { return *reinterpret_cast<const PackedModel*>(plan_.data()); }
  const WeightsFile& weights() const { return file_; }

  // The checked packet of this model. Throws Error, kWrongModel among others.
  Packet parse(Span packet, int64_t max_pixels) const;

  // The same of the first `groups` groups alone, or of all for a number below 0: decode() then makes a preview of the
  // rest's means. See parse_preview(). Throws Error, kArgument for more groups than the model has.
  Packet parse(Span packet, int64_t max_pixels, int32_t groups) const;

  // Pixels of a packet of parse(). sink: of the packet's size over sink.reduce, rounded up, or a checked region of
  // that; one channel for grey pictures, else three. Where it is reduced, fine channels are not decoded, nor written to
  // extras.latents. Throws Error: kTruncated, kDamaged.
  void decode(const Packet& packet, const PixelSink& sink, int threads, const DecodeExtras& extras = {}) const;

  // The bytes of a file of version 2. times: seconds are added, if it is not null. The first call packs the weights of
  // g_a and h_a. Throws Error: kArgument, kEncode, kModel.
  std::vector<uint8_t> encode(const PixelSource& pixels, const EncodeOptions& options,
                              const std::vector<Chunk>& chunks = {}, EncodeTimes* times = nullptr) const;

  // What g_s reads, [h][w][M], and what `extras` asks for. Throws as decode().
  FloatBuffer decode_latents(const Packet& packet, int threads, const DecodeExtras& extras = {}) const;

 private:
  // decode_latents() of the first groups, and of them what is wanted: [rows][columns][M].
  FloatBuffer decode_groups(const Packet& packet, int32_t groups, const Window& wanted, int threads,
                            const DecodeExtras& extras) const;
  const Encoder& encoder(int threads) const;

  const WeightsFile file_;
  const bool int16_;
  Fingerprint fingerprint_;
  std::vector<uint8_t> plan_;  // a PackedModel
  std::vector<float> shifts_;  // of centroids; empty where g_s reads whole numbers
  std::vector<float> means_;   // of the rows of y
  Synthesis synthesis_;
  mutable std::mutex encoder_mutex_;
  mutable std::unique_ptr<const Encoder> encoder_;  // made when it is needed
};

}  // namespace ccm
