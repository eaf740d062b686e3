// The entropy path on the CPU: z, psi and the grouped context model. Planes outside are [h][w][channels], dense.
#pragma once
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "entropy/cpu/kernels.h"
#include "format/residual.h"
#include "model/model.h"

namespace ccm {

struct Segment {
  const uint8_t* data;
  int64_t size;
  int64_t code;  // of valid_streams()
};

struct EncodedStream {
  std::vector<uint8_t> bytes;
  int32_t code;  // of valid_streams()
};

// z of one image: int16 [hz][wz][N].
Status decode_z(const PackedModel& m, const Segment& stream, int32_t hz, int32_t wz, int16_t* z);
EncodedStream encode_z(const PackedModel& m, const int16_t* z, int32_t hz, int32_t wz, int32_t code);

// psi uint8 [h][w][P] of one image, cropped from 4 hz x 4 wz. Rows of every layer are dealt to `threads`.
void hyper(const PackedModel& m, const int16_t* z, int32_t hz, int32_t wz, int32_t h, int32_t w, int threads,
           uint8_t* psi);

// A rectangle of a plane of latents.
struct Area {
  int32_t top, left, height, width;
};

// One image of a batch for decode_y: streams -> y (in 1/16 in residual models).
struct DecodeJob {
  const uint8_t* psi;      // [h][w][P]
  const Segment* streams;  // [G]
  int16_t* y;              // [h][w][M], result; null where it is not wanted
  Status status;           // result
  // Of every symbol, as parameters() gives them: results, or both null where they are not wanted.
  uint16_t* rows = nullptr;
  int16_t* offsets = nullptr;
  // What a synthesis transform reads, [h][w][M]: y plus the shift of each symbol's row and distance from its offset, or
  // y alone where there are no shifts. A result, or null where it is not wanted.
  float* values = nullptr;
  // What of the plane `values` is of, [height][width][M]; without a height: all of it.
  Area wanted{};
  const float* shifts = nullptr;  // [rows][2 kShiftReach + 1]; distances beyond kShiftReach share the last one's
  // Previews: of groups from this one on nothing is read. Their y are their offsets, and stand for these means, [rows],
  // more.
  int32_t groups_read = kMaxGroups;
  const float* means = nullptr;
};

// Distances from a symbol's offset that have shifts of their own (ccm_fast/entropy/centroids.py).
constexpr int32_t kShiftReach = 24;

// One image of a batch for encode_y_residual: latents -> streams, and y as a decoder will have it.
struct ResidualJob {
  const uint8_t* psi;      // [h][w][P]
  const int32_t* latents;  // [h][w][M] in 1/256, at most kResidualLimit in magnitude
  int16_t* y;              // [h][w][M] in 1/16, result
  EncodedStream* streams;  // [G], result
};

// One image of a batch for settle_y: y -> y as a decoder will have it, where symbols that are not coded are their
// offsets.
struct SettleJob {
  const uint8_t* psi;      // [h][w][P]
  const int16_t* known;    // [h][w][M]
  int16_t* y;              // [h][w][M], result
  EncodedStream* streams;  // [G], result, or null: only y is wanted
  uint16_t* rows;          // as parameters() gives them for y: results, or both null
  int16_t* offsets;
};

// Decodes a batch of images of one size. Work is cut into runs of steps of one group and rows of its dense part, which
// threads take as soon as their context is there: groups run behind each other, images beside each other. Only the
// first `groups` are gone through: the others' results are not written, and their streams not looked at.
void decode_y(const PackedModel& m, int32_t h, int32_t w, int threads, std::vector<DecodeJob>& jobs,
              int32_t groups = kMaxGroups);

// Encodes a batch of images with a residual model, step by step: every mean depends on the symbols before it.
void encode_y_residual(const PackedModel& m, int32_t h, int32_t w, int32_t code, int threads,
                       const std::vector<ResidualJob>& jobs);

// Encodes a batch of images with a model that skips symbols, step by step: which symbols are not coded, and what they
// are, depends on those before them. Not for residual models.
void settle_y(const PackedModel& m, int32_t h, int32_t w, int32_t code, int threads,
              const std::vector<SettleJob>& jobs);

// Row and offset (0 in residual models) of every symbol, all steps at once: uint16 / int16 [h][w][M].
void parameters(const PackedModel& m, const uint8_t* psi, const int16_t* y, int32_t h, int32_t w, int threads,
                uint16_t* rows, int16_t* offsets);

// Streams of all groups of one image; for models that code all symbols of y themselves.
std::vector<EncodedStream> encode_y(const PackedModel& m, const uint8_t* psi, const int16_t* y, int32_t h, int32_t w,
                                    int32_t code, int threads);

}  // namespace ccm
