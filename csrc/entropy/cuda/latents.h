// Arguments of the kernels that code y, and where everything lies in their scratch memory.
#pragma once
#include <cstdint>

#include "entropy/cuda/engine_cuda.h"

namespace ccm {

// Positions of a step whose parameters are computed together: two tiles of products, which is what a step of the
// wavefront has in a plane of 32 rows.
constexpr int kChunk = 16;

// Symbols behind the last one of a step, with valid keys: what a round, or a batch of tried ones, loads ahead.
constexpr int32_t kMostSequences = 4;
constexpr int32_t kMoreSymbols = (2 * kMostSequences + 1) * 32;
// Symbols that a chunk leaves to the next one of its step, which completes their rounds.
constexpr int32_t kMostCarried = kMostSequences * 32 - 1;

// Words of a sequence that lie in the arena: kWordsAhead are written at once, when fewer than 32 are left that no round
// has asked for.
constexpr int32_t kWordRing = 128, kWordsAhead = 64;
// The ring's first words once more behind its last, so that a round's words lie one behind another.
constexpr int32_t kRingAgain = 32;
// The ring, a place for a symbol of each thread that nobody wants, and the words that lanes hand over when they retire.
constexpr int32_t kSpareWords = 32 * 4, kRingWords = kWordRing + kRingAgain + kSpareWords + 64;

// Tiles of 16 channels of a group whose sums of contexts are begun ahead; wider ones' weights take longer than a step.
constexpr int32_t kMostAhead = 16;

// At least the sizes of WarpDecoder, CoderPlanes and StepLayer, which host code cannot see; step_arena.cuh checks.
constexpr int kDecoderBytes = 80, kPlanesBytes = 240, kStepLayerBytes = 64;

// Counters of one (image, group), ints in `progress`.
struct GroupProgress {
  static constexpr int kStepsDone = 0, kStatus = 1, kClaims = 2, kFlags = kClaims + kMaxLayers;
};

// A block's memory for the positions of a chunk. Offsets in bytes.
struct ArenaLayout {
  int32_t features, feature_stride, feature_bytes;  // two times bytes [kChunk][feature_stride]
  int32_t mean, scale;                              // int16, uint8 [chunk * channels], the latter behind the former
  // int32 [6]: coded symbols of each list; whether the next chunk's base is there; whether a crew computes; symbols of
  // each list that are not coded.
  int32_t listed;
  int32_t words;  // uint16 [kMostSequences][kRingWords]
  // What other warps than the decoders' have added up for the next chunk: accumulators, Ahead [tiles of 16 channels,
  // kMostAhead of them at most], and for each the products that they hold, -1: nothing (int32 [kMostAhead]).
  int32_t ahead, ahead_steps;
  int32_t layers;   // StepLayer [kMaxLayers + 2]
  int32_t offsets;  // int32, as many as DeviceConv::quads of the own group's convolution
  int32_t scale_rows, positions, decoders, planes, stop, bad, coded;
  int32_t known;  // 0: absent, too many tiles
  int32_t bytes;  // of all this; lists are elsewhere
};

// The list of a chunk's symbols, in bytes from its beginning: those that are coded come first, those that are not lie
// at its end, from the last place on; what lies behind the coded ones (kMoreSymbols) reaches up to them at most.
struct ListLayout {
  int32_t targets, modes, bytes;

  CCM_HD int32_t places() const { return (modes - targets) / 8; }

  CCM_HD static ListLayout of(int32_t channels) {
    const int32_t places = kChunk * channels + kMostCarried, symbols = places + kMoreSymbols;
    return {8 * symbols, 8 * (symbols + places), (8 * (symbols + places) + 4 * symbols + 15) / 16 * 16};
  }
};

// The blocks that compute a group's step networks for the block that codes it (crew.cuh): `parts` of each layer's
// channels by `slots` of the chunks of a step. Offsets in bytes of a group's part of the exchange.
struct CrewLayout {
  uint32_t groups;  // bit g: group g has such blocks
  int32_t parts, slots;
  int32_t turns;                // chunks of a step that a slot has at most
  uint64_t per_part, per_slot;  // reciprocal() of their numbers
  int32_t counters;             // where CrewCounters begin among a group's counters
  // Means, int16 [kChunk][channels], and scales, of each chunk of a step: as in ArenaLayout.
  int32_t parameters, scales;
  // What parts compute of a layer for all of them: features [slots][2][layers] as in ArenaLayout; two take turns.
  int32_t features, layers;
  int64_t bytes;
  // In shared memory: what taps read, bytes [kChunk][stride], the table of scales (-1: too long), sums begun ahead, and
  // what keep_weights() brings.
  int32_t rows, stride, table, ahead, weights;

  CCM_HD int32_t members() const { return parts * slots; }
};

// Counters of a group's crew, ints behind GroupProgress: how many blocks have joined, the steps that members may
// compute (kCrewEnd: none any more), and for each member what it has done, see CrewLink::done().
struct CrewCounters {
  static constexpr int kJoined = 0, kGo = 1, kDone = 2;
  static constexpr int kMostParts = 32, kMostSlots = 4;
  static constexpr int kCount = kDone + kMostParts * kMostSlots;
};
constexpr int32_t kCrewEnd = 0x7fffffff;

struct LatentsArgs {
  const DeviceModel* model;
  OrderView order;
  int32_t batch, groups, h, w;
  uint64_t per_image;  // reciprocal() of batch
  // Encoding: symbols are given, `coded` is what is to be coded, in coding order; decoding: streams are.
  int32_t encoding;
  const void* given;
  const uint8_t* data;
  int64_t size;
  const int64_t* segments;
  const uint8_t* psi;
  int16_t* y;
  int32_t* status;  // [batch]
  uint64_t* coded;  // [batch][M * h * w]: row << 32 | value, group after group, each group's without gaps
  int32_t* ends;    // [batch][groups][h * w]: a group's coded symbols up to the end of each step
  int32_t* places;  // null, or as y: where each symbol's shift lies in a table [rows][2 reach + 1]
  int32_t reach;
  // Scratch.
  uint8_t* context;  // planes [batch], plane_channels bytes a position
  uint8_t* psi_plane;
  uint8_t* features;  // [batch]: outputs of every group's stack but its last
  int32_t* base;      // [batch]: of every group
  int32_t* progress;  // [1 + batch + batch * groups * progress_stride]: ticket, failures, counters
  uint8_t* arenas;    // [blocks], arena_bytes each, where shared memory is too small
  int32_t arena_bytes;
  int64_t context_bytes, psi_bytes, features_bytes, base_count;  // of an image
  int32_t psi_stride, progress_stride, tiles;
  int32_t arena_in_shared, shared;  // shared: bytes of dynamic shared memory
  int32_t tables;                   // where windows and neighbours of y's rows lie in it; -1: they do not
  int32_t lists;       // where lists begin, from the arena's beginning; a group's weights lie behind its own
  uint32_t two_lists;  // bit g: group g has a second list, of the chunk behind
  CrewLayout crew;
  uint8_t* exchange;  // [batch][groups], crew.bytes each
  ArenaLayout arena;

  CCM_HD int32_t* failed(int32_t image) const { return progress + 1 + image; }
  CCM_HD int32_t* counters(int32_t image, int32_t group) const {
    return progress + 1 + batch + static_cast<int64_t>(image * groups + group) * progress_stride;
  }
};

// Layers of a group's dense part that chase the group before it.
CCM_HD int32_t chasing_layers(const DeviceGroup& d) { return d.stack_layers ? d.stack_layers : (d.has_skip ? 1 : 0); }

}  // namespace ccm
