// The entropy network of a chunk of positions: from the sum of contexts to means and scales.
#pragma once
#include "entropy/cuda/step_arena.cuh"

namespace ccm {

// Whether a layer's descriptor is loaded while the layer before is computed. From compute capability 10.0 on the
// compiler spills then.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kLayersAhead = false;
#else
constexpr bool kLayersAhead = true;
#endif

template <bool kInShared>
class StepNetwork : public StepArena<kInShared> {
 protected:
  using StepArena<kInShared>::StepArena;
  using StepArena<kInShared>::a_;
  using StepArena<kInShared>::m_;
  using StepArena<kInShared>::shared_;
  using StepArena<kInShared>::image_;
  using StepArena<kInShared>::group_;
  using StepArena<kInShared>::copy;
  using StepArena<kInShared>::d;
  using StepArena<kInShared>::features;
  using StepArena<kInShared>::layer;
  using StepArena<kInShared>::layers;
  using StepArena<kInShared>::mean;
  using StepArena<kInShared>::offsets;
  using StepArena<kInShared>::order;
  using StepArena<kInShared>::planes;
  using StepArena<kInShared>::scale;
  using StepArena<kInShared>::step_layers;
  using StepArena<kInShared>::tile_of;
  using StepArena<kInShared>::two_lists;

  // Where a coder's weights lie in shared memory.
  CCM_DEVICE int64_t behind_lists() const {
    if (!kInShared && !a_.arena_in_shared) return 0;
    return a_.lists + ListLayout::of(d().channels).bytes * (two_lists() ? 2 : 1);
  }

  // Part `which` of so many tiles of channels, of which each has `part` at most.
  struct Tiles {
    int32_t first, end;
    CCM_DEVICE static Tiles of(int32_t m_tiles, int32_t which, int32_t part) {
      const int32_t first = min(m_tiles, which * part);
      return {first, min(m_tiles, first + part)};
    }
  };

  // Copies into shared memory from `at` on, as far as it goes: the channels' numbers, then weights in whole tiles, the
  // last layers first. Of part `which` of each layer's tiles, part_of(tiles of the layer) each.
  template <class PartOf>
  CCM_DEVICE void keep_weights(int64_t at, int32_t which, PartOf part_of) {
    const int32_t depth = layers();
#pragma unroll 1
    for (int32_t l = 0; l < depth; ++l) {
      const DeviceConv& c = layer(l);
      const Tiles own = Tiles::of(c.m_tiles, which, part_of(c.m_tiles));
      const int64_t bytes = static_cast<int64_t>(own.end - own.first) * kTileM * sizeof(ChannelNumbers);
      const ChannelNumbers* numbers = m_.template at<ChannelNumbers>(c.numbers);
      if (at + bytes <= a_.shared) {
        copy(shared_ + at, numbers + own.first * kTileM, bytes);
        numbers = reinterpret_cast<const ChannelNumbers*>(shared_ + at) - own.first * kTileM;
        at += bytes;
      }
      if (threadIdx.x == 0) {
        const uint4* const far = m_.template at<uint4>(c.weights);
        const auto features_of = [&](int32_t k) { return a_.arena.features + (k & 1) * a_.arena.feature_bytes; };
        step_layers()[l] = {far,
                            far,
                            numbers,
                            0,
                            own.first,
                            own.end,
                            c.k_steps,
                            c.output,
                            c.zero,
                            features_of(l + 1),
                            features_of(l),
                            a_.arena.feature_stride};
      }
    }
#pragma unroll 1
    for (int32_t l = depth - 1; l >= 0; --l) {
      const DeviceConv& c = layer(l);
      const Tiles own = Tiles::of(c.m_tiles, which, part_of(c.m_tiles));
      const int64_t tile = static_cast<int64_t>(c.k_steps) * 512;
      int32_t tiles = 0;
      while (own.first + tiles < own.end && at + (tiles + 1) * tile <= a_.shared) ++tiles;
      copy(shared_ + at, m_.template at<uint4>(c.weights) + own.first * c.k_steps * 32, tiles * tile);
      if (threadIdx.x == 0) {
        step_layers()[l].near = reinterpret_cast<const uint4*>(shared_ + at) - own.first * c.k_steps * 32;
        step_layers()[l].near_tiles = own.first + tiles;
      }
      at += tiles * tile;
    }
    const DevicePlane context = GroupPlanes(a_, image_, group_).context();
    const uint32_t* const quads = m_.template at<uint32_t>(d().spatial.quads);
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < d().spatial.k_steps * 8 + kMoreQuads; k += blockDim.x)
      offsets()[k] = static_cast<uint32_t>(quad_offset(quads[k], context.row_stride, context.stride));
  }

  // Of positions p .. end - 1, which come after the present chunk (`last`: of its step): base and those taps that see
  // no latent of the present step, as accumulators. Each warp of the team only if the base is there, which is returned.
  CCM_DEVICE bool look_ahead(const Team& team, int32_t p, int32_t end, bool last) {
    const DeviceConv& c = d().spatial;
    if (c.m_tiles > kMostAhead) return false;
    const int32_t lane = lane_here();
    const GroupPlanes planes(a_, image_, group_);
    if (const int32_t layer = chasing_layers(d()) - 1; layer >= 0) {
      const int32_t* const flag = lane < end - p ? planes.flag(layer, tile_of(p + lane)) : nullptr;
      if (!__all_sync(kWarp, !flag || ld_relaxed(flag))) return false;
      if (flag) ld_acquire(flag);
      __syncwarp();
    }
    const int32_t steps = !last ? c.k_steps : (order().gaps ? 0 : c.early_steps);
    const uint32_t* const at = order().positions + p;
    const int32_t warps = team.warps();
    const auto place = [=](int32_t k) { return at[p + k < end ? k : 0]; };
    const ContextRows from = context_rows(place);
    // The last tiles first, whose weights may lie further away; who has done one of those takes a second one last.
#pragma unroll 1
    for (int32_t done = 0, mine = team.warp(); done + mine < c.m_tiles; done += warps) {
      const int32_t m_tile = c.m_tiles - 1 - done - mine;
      mine = warps - 1 - mine;
      Accumulators<kChunkNT> acc;
      start_from_base(m_tile, place, acc);
      add_context(step_layers()->weights(m_tile), 0, steps, from, acc);
#pragma unroll
      for (int n = 0; n < kChunkNT; ++n)
        ahead(m_tile, n, lane) = {static_cast<unsigned>(acc.v[n][0]), static_cast<unsigned>(acc.v[n][1]),
                                  static_cast<unsigned>(acc.v[n][2]), static_cast<unsigned>(acc.v[n][3])};
      if (lane == 0) ahead_steps()[m_tile] = steps;
    }
    return true;
  }

  // Where the own context of those chunk positions at(k) lies that a lane supplies to its tiles of products.
  struct ContextRows {
    const uint8_t* row[kChunkNT];
  };
  template <class At>
  CCM_DEVICE ContextRows context_rows(At at) const {
    const DevicePlane context = planes()->context;
    ContextRows found;
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n) {
      const uint32_t p = at(n * kTileN + static_cast<int32_t>(threadIdx.x & 31) / 4);
      found.row[n] = context.at(p >> 16, p & 0xffff);
    }
    return found;
  }

  // Accumulators start from the sums of contexts.
  template <class At>
  CCM_DEVICE void start_from_base(int32_t m_tile, At at, Accumulators<kChunkNT>& acc) const {
    const int32_t lane = threadIdx.x & 31;
    const Base base = planes()->base;
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const uint32_t q = at(n * kTileN + (lane & 3) * 2 + k);
        const int32_t* sum = base.at(q >> 16, q & 0xffff) + m_tile * kTileM + lane / 4;
        acc.v[n][k] = sum[0];
        acc.v[n][2 + k] = sum[8];
      }
  }

  // Products first .. end - 1 of the own context, with the weights of the first one of all.
  CCM_DEVICE void add_context(const uint4* weights, int32_t first, int32_t end, const ContextRows& from,
                              Accumulators<kChunkNT>& acc) const {
    const auto same = [](uint32_t offset) { return static_cast<int32_t>(offset); };
    product(end - first, from.row, weights + first * 32, offsets() + first * 8, same, acc);
  }

  // The numbers of the two channels that a lane holds of a tile.
  struct LaneNumbers {
    ChannelNumbers low, high;
    CCM_DEVICE static LaneNumbers of(const StepLayer& c, int32_t m_tile) {
      const ChannelNumbers* const own = c.numbers + m_tile * kTileM + (threadIdx.x & 31) / 4;
      return {own[0], own[8]};
    }
  };

  // Parameters of positions first .. first + count - 1 of the coding order, a chunk. A warp's unit of work is a tile of
  // channels by all positions; `after_first` is called behind the first layer. What a layer does not wait for, its
  // descriptor and its channels' numbers, is loaded before the barrier that it waits at.
  template <class AfterFirst>
  CCM_DEVICE void network(const Team& team, int32_t first, int32_t count, AfterFirst after_first) {
    const int32_t lane = threadIdx.x & 31, warps = team.warps();
    StepLayer c = step_layers()[0];
    int32_t m_tile = team.warp();
    LaneNumbers numbers{};
    Accumulators<kChunkNT> acc;
    int32_t begun = -1;
    if (m_tile < c.m_tiles) {
      numbers = LaneNumbers::of(c, m_tile);
      begun = begun_sums(m_tile, acc);
    }
    const uint32_t* const where = order().positions + first;
    const auto at = [=](int32_t k) { return where[k < count ? k : 0]; };
    const ContextRows from = context_rows(at);
    bool more = c.output != kHead;
    StepLayer next = step_layers()[more];
#pragma unroll 1
    while (m_tile < c.m_tiles) {
      if (begun < 0) start_from_base(m_tile, at, acc);
      add_context(c.weights(m_tile), max(begun, 0), c.k_steps, from, acc);
      put(c, m_tile, numbers, acc);
      m_tile += warps;
      if (m_tile < c.m_tiles) {
        numbers = LaneNumbers::of(c, m_tile);
        begun = begun_sums(m_tile, acc);
      }
    }
    after_first();
#pragma unroll 1
    for (int32_t l = 1; more; ++l) {
      c = kLayersAhead ? next : step_layers()[l];
      more = c.output != kHead;
      m_tile = team.warp();
      if (m_tile < c.m_tiles) numbers = LaneNumbers::of(c, m_tile);
      team.sync();
      next = step_layers()[l + more];
#pragma unroll 1
      while (m_tile < c.m_tiles) {
        const uint8_t* rows[kChunkNT];
#pragma unroll
        for (int n = 0; n < kChunkNT; ++n)
          rows[n] = this->template part<uint8_t>(c.in) + (n * kTileN + lane / 4) * c.stride;
        start_from(numbers.low.bias, numbers.high.bias, acc);
        product_rows(c.k_steps, rows, c.weights(m_tile), acc);
        put(c, m_tile, numbers, acc);
        m_tile += warps;
        if (m_tile < c.m_tiles) numbers = LaneNumbers::of(c, m_tile);
      }
    }
    team.sync();
    // What was begun is taken.
    if (kInShared && team.thread() < kMostAhead) ahead_steps()[team.thread()] = -1;
  }

  // What look_ahead() has added up of a tile for the present chunk, and how many products that are; -1: nothing, not
  // even the base.
  CCM_DEVICE int32_t begun_sums(int32_t m_tile, Accumulators<kChunkNT>& acc) const {
    if (kInShared && m_tile < kMostAhead) {
#pragma unroll
      for (int n = 0; n < kChunkNT; ++n) {  // loaded in any case: nobody looks at it then
        const uint4 four = ahead(m_tile, n, static_cast<int32_t>(threadIdx.x & 31));
        acc.v[n][0] = static_cast<int>(four.x), acc.v[n][1] = static_cast<int>(four.y);
        acc.v[n][2] = static_cast<int>(four.z), acc.v[n][3] = static_cast<int>(four.w);
      }
      return ahead_steps()[m_tile];
    }
    return -1;
  }

  // A tile of a layer: features, or parameters.
  CCM_DEVICE void put(const StepLayer& c, int32_t m_tile, const LaneNumbers& numbers,
                      const Accumulators<kChunkNT>& acc) const {
    const int32_t channel = m_tile * kTileM + static_cast<int32_t>(threadIdx.x & 31) / 4;
    const Rescale rescale[2] = {Rescale::of(numbers.low), Rescale::of(numbers.high)};
    if (c.output == kHead)
      put_parameters(channel, rescale, acc);
    else
      put_features(channel, rescale, c.zero, acc, this->template part<uint8_t>(c.out), c.stride);
  }

  // Results of this lane: of `channel` and `channel` + 8. There is room for those of positions that the step does not
  // have and of channels that the layer does not have; nobody looks at them. All are computed before the first is
  // stored, side by side.
  CCM_DEVICE void put_features(int32_t channel, const Rescale (&rescale)[2], int32_t zero,
                               const Accumulators<kChunkNT>& acc, uint8_t* out, int32_t stride) const {
    uint8_t byte[kChunkNT][4];
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) byte[n][k] = rescale[k / 2].byte(acc.v[n][k], zero);
    out += (threadIdx.x & 3) * 2 * stride + channel;
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) out[(n * kTileN + k % 2) * stride + k / 2 * 8] = byte[n][k];
  }

  CCM_DEVICE void put_parameters(int32_t channel, const Rescale (&rescale)[2],
                                 const Accumulators<kChunkNT>& acc) const {
    put_parameters(channel, rescale, acc, mean(), scale(), d().channels, m_.template at<uint8_t>(m_.scale_table));
  }
  // To means and scales of [kChunk][channels]; `table`: index of each scale's code.
  CCM_DEVICE void put_parameters(int32_t channel, const Rescale (&rescale)[2], const Accumulators<kChunkNT>& acc,
                                 int16_t* means, uint8_t* scales, int32_t channels, const uint8_t* table) const {
    const int32_t last = m_.scale_codes - 1, position = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t of = channel + half * 8;
      int32_t value[kChunkNT][2];
#pragma unroll
      for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
        for (int k = 0; k < 2; ++k) value[n][k] = rescale[half].linear(acc.v[n][half * 2 + k]);
      if (of < channels) {
        int16_t* to = means + position * channels + of;
#pragma unroll
        for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
          for (int k = 0; k < 2; ++k)
            to[(n * kTileN + k) * channels] = static_cast<int16_t>(clamp(value[n][k], -32768, 32767));
      } else if (of < 2 * channels) {
        uint8_t* to = scales + position * channels + of - channels;
        uint8_t index[kChunkNT][2];
#pragma unroll
        for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
          for (int k = 0; k < 2; ++k) index[n][k] = table[clamp(value[n][k], 0, last)];
#pragma unroll
        for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
          for (int k = 0; k < 2; ++k) to[(n * kTileN + k) * channels] = index[n][k];
      }
    }
  }

  CCM_DEVICE uint4& ahead(int32_t m_tile, int32_t n, int32_t lane) const {
    return this->template part<uint4>(a_.arena.ahead)[(m_tile * kChunkNT + n) * 32 + lane];
  }
  CCM_DEVICE int32_t* ahead_steps() const { return this->template part<int32_t>(a_.arena.ahead_steps); }
};

}  // namespace ccm
