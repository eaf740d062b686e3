// What the parts of a step share: the block's memory, the group that it codes, and the warps that work together.
#pragma once
#include "entropy/cuda/chase.cuh"
#include "entropy/cuda/publish.cuh"
#include "entropy/cuda/rans_warp.cuh"
#include "format/tables.h"

namespace ccm {

constexpr int kChunkNT = kChunk / kTileN;  // tiles of products

// The planes, the order and the lists of a coder's group, and what every step needs of the descriptors: these lie in
// device memory, and acquiring empties L1.
struct CoderPlanes {
  DevicePlane context;  // from the group's first channel on
  Base base;
  GroupOrder order;
  ListLayout list;
  Publisher publisher;
  uint64_t per_channel;
  int32_t channels, skip_scale, residual;
  int32_t depth, within_step;       // layers of a step's network; as DeviceGroup
  int32_t dense_layer, tile_shift;  // the last one of the dense part, -1: none, and of its tiles
};

// What a layer of the step's network needs at once, in the arena: descriptors in device memory cost a wait each.
struct alignas(16) StepLayer {
  const uint4* near;  // weights of its first tiles, which lie in shared memory
  const uint4* far;   // of all tiles
  const ChannelNumbers* numbers;
  int32_t near_tiles, first, m_tiles, k_steps, output, zero;  // of tiles: where the near ones, and all, end
  int32_t in, out, stride;                                    // features, in the arena; of two positions of theirs

  CCM_DEVICE const uint4* weights(int32_t m_tile) const {
    return (m_tile < near_tiles ? near : far) + m_tile * k_steps * 32;
  }
};

static_assert(sizeof(WarpDecoder) <= kDecoderBytes && sizeof(CoderPlanes) <= kPlanesBytes &&
                  sizeof(StepLayer) <= kStepLayerBytes,
              "the arena is too small");

// The warps of a block from `first` on: all of them, or those that do not decode.
struct Team {
  int32_t first;

  CCM_DEVICE int32_t warps() const { return static_cast<int32_t>(blockDim.x / 32) - first; }
  CCM_DEVICE int32_t warp() const { return static_cast<int32_t>(threadIdx.x / 32) - first; }
  CCM_DEVICE int32_t threads() const { return static_cast<int32_t>(blockDim.x) - 32 * first; }
  CCM_DEVICE int32_t thread() const { return static_cast<int32_t>(threadIdx.x) - 32 * first; }
  CCM_DEVICE void sync() const {
#if CCM_FAULT == 9
    if (first) return;
#endif
    bar_sync(kTeamBarrier, threads());
  }

 private:
  static constexpr int kTeamBarrier = 1;
};

// The list of a chunk's symbols: what decoders read, and where it belongs.
struct SymbolList {
  Symbol* symbols;
  uint32_t* modes;  // the most probable entry of each, or kNever
  Target* targets;
};

// kInShared: the arena and the tables lie in shared memory, which the compiler then knows; otherwise either may.
template <bool kInShared>
class StepArena {
 protected:
  // `arena`: this block's memory, in `shared` or not.
  CCM_DEVICE StepArena(const LatentsArgs& a, unsigned char* shared, unsigned char* arena)
      : a_(a), m_(*a.model), shared_(shared), arena_(kInShared ? shared : arena) {}

  // The parts of the arena. Not members: the kernel is short of registers, and offsets lie in constant memory.
  template <class T>
  CCM_DEVICE T* part(int32_t offset) const {
    return reinterpret_cast<T*>(arena_ + offset);
  }
  CCM_DEVICE uint8_t* features() const { return part<uint8_t>(a_.arena.features); }  // a layer's inputs and outputs
  CCM_DEVICE int16_t* mean() const { return part<int16_t>(a_.arena.mean); }
  CCM_DEVICE uint8_t* scale() const { return part<uint8_t>(a_.arena.scale); }
  CCM_DEVICE ScaleRow* scale_rows() const { return part<ScaleRow>(a_.arena.scale_rows); }
  CCM_DEVICE uint32_t* positions() const { return part<uint32_t>(a_.arena.positions); }
  CCM_DEVICE StepLayer* step_layers() const { return part<StepLayer>(a_.arena.layers); }
  CCM_DEVICE uint32_t* offsets() const { return part<uint32_t>(a_.arena.offsets); }  // of the quads of its context
  // Tiles of the base that are known to be there; null: too many of them.
  CCM_DEVICE int32_t* known() const { return a_.arena.known ? part<int32_t>(a_.arena.known) : nullptr; }
  // This thread's part of the decoder of a sequence of the stream.
  CCM_DEVICE WarpDecoder* stream(int32_t q) const {
    return part<WarpDecoder>(a_.arena.decoders) + q * 32 + (threadIdx.x & 31);
  }
  // Words of a sequence.
  CCM_DEVICE uint16_t* ring(int32_t q) const { return part<uint16_t>(a_.arena.words) + q * kRingWords; }
  // Another group of the image has failed.
  CCM_DEVICE int32_t* stop() const { return part<int32_t>(a_.arena.stop); }
  // This one has.
  CCM_DEVICE int32_t* bad() const { return part<int32_t>(a_.arena.bad); }
  // Encoding: the group's coded symbols so far.
  CCM_DEVICE int32_t* coded() const { return part<int32_t>(a_.arena.coded); }
  // Symbols of each of two lists, coded ones and others, and whether the next chunk's base is there.
  CCM_DEVICE int32_t* listed(int32_t which) const { return part<int32_t>(a_.arena.listed) + which; }
  CCM_DEVICE int32_t* skipped(int32_t which) const { return part<int32_t>(a_.arena.listed) + 4 + which; }
  CCM_DEVICE int32_t* base_is_there() const { return part<int32_t>(a_.arena.listed) + 2; }
  // Whether other blocks compute the group's networks from now on.
  CCM_DEVICE int32_t* crewed() const { return part<int32_t>(a_.arena.listed) + 3; }
  // Of two lists, which are the same one where there is no room, or no use, for two.
  CCM_DEVICE SymbolList list(int32_t which) const {
    const ListLayout layout = planes()->list;
    const int32_t at = a_.lists + (which && two_lists() ? layout.bytes : 0);
    return {part<Symbol>(at), part<uint32_t>(at + layout.modes), part<Target>(at + layout.targets)};
  }
  CCM_DEVICE bool two_lists() const { return a_.two_lists >> group_ & 1; }

  CCM_DEVICE CoderPlanes* planes() const { return part<CoderPlanes>(a_.arena.planes); }
  CCM_DEVICE const GroupOrder& order() const { return planes()->order; }

  CCM_DEVICE const DeviceGroup& d() const { return m_.group[group_]; }
  CCM_DEVICE const DeviceConv& layer(int32_t l) const {
    return l == 0 ? d().spatial : (l <= d().hidden_layers ? d().hidden[l - 1] : d().head);
  }
  CCM_DEVICE int32_t layers() const { return d().spatial.output == kHead ? 1 : d().hidden_layers + 2; }

  CCM_DEVICE RowTables tables() const {
    RowTables rows(m_, m_.y_rows);
    if (kInShared || a_.tables >= 0) rows.lie_at(reinterpret_cast<const RowWindow*>(shared_ + a_.tables));
    return rows;
  }

  CCM_DEVICE int32_t unit() const { return planes()->residual ? 1 << kMeanBits : 1; }

  // The group's planes, for all threads behind a barrier.
  CCM_DEVICE void find_planes() const {
    const GroupPlanes found(a_, image_, group_);
    if (threadIdx.x != 0) return;
    DevicePlane context = found.context();
    context.data += d().plane_channel;
    const int64_t first = place_in_y(0, 0);
    Publisher to{};
    to.y = a_.y + first;
    to.places = a_.places ? a_.places + first : nullptr;
    to.reach = a_.reach;
    to.w = a_.w;
    to.channels = m_.latent_channels;
    to.context = context.data;
    to.row_stride = context.row_stride;
    to.stride = context.stride;
    to.mult = m_.scaled_context ? m_.template at<int32_t>(m_.context_mult) + d().plane_channel : nullptr;
    to.shift = m_.template at<int32_t>(m_.context_shift) + d().plane_channel;
    const int32_t dense_layer = chasing_layers(d()) - 1;
    *planes() = {context,
                 found.base(),
                 a_.order.of(group_),
                 ListLayout::of(d().channels),
                 to,
                 d().per_channel,
                 d().channels,
                 m_.skip_scale,
                 m_.residual,
                 layers(),
                 d().within_step,
                 dense_layer,
                 dense_layer < 0 ? 0 : d().shift[dense_layer]};
  }

  // In y, and in planes of its shape.
  CCM_DEVICE int64_t place_in_y(uint32_t position, int32_t channel) const {
    const int64_t row = static_cast<int64_t>(image_) * a_.h + (position >> 16);
    return (row * a_.w + (position & 0xffff)) * m_.latent_channels + d().first_channel + channel;
  }

  // The whole block copies bytes, sixteen at a time.
  CCM_DEVICE static void copy(void* to, const void* from, int64_t bytes) {
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < bytes / 16; i += blockDim.x)
      static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
  }

  // Tile of a position of the coding order.
  CCM_DEVICE int32_t tile_of(int32_t p) const { return tile_at(order().positions[p]); }
  CCM_DEVICE int32_t tile_at(uint32_t at) const {
    const auto shift = static_cast<uint32_t>(planes()->tile_shift);
    return static_cast<int32_t>(((at >> 16) + shift) / kDenseRows * a_.order.tiles_j +
                                ((at & 0xffff) + shift) / kDenseColumns);
  }

  // Positions first .. first + count of the coding order, part of a step.
  CCM_DEVICE void load_positions(const Team& team, int32_t first, int32_t count) {
    store_positions(team, first, count);
    team.sync();
  }
  // The same for those who wait for others anyway before they look at them.
  CCM_DEVICE void store_positions(const Team& team, int32_t first, int32_t count) {
#pragma unroll 1
    for (int32_t p = team.thread(); p < kChunk; p += team.threads())
      positions()[p] = order().positions[first + (p < count ? p : 0)];  // the rest repeat the first
  }

  const LatentsArgs& a_;
  const DeviceModel& m_;
  unsigned char* const shared_;
  unsigned char* const arena_;
  int32_t image_ = 0, group_ = -1;  // group -1: none
};

}  // namespace ccm
