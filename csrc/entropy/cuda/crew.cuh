// Blocks that compute the step networks of a group which another block codes: its crew.
//
// A group's steps follow one another, and so do a step's layers; what can be shared out are channels of each layer
// (parts) and chunks of a step (slots). A member keeps its part's weights in shared memory. The coder says that a
// step's latents and bases are there (`go`), members that means and scales are. Parts tell each other what they have
// computed of a layer. All of it lies in global memory: written, a barrier, one release; one acquire, a barrier, read.
//
// Nobody waits for a block that may not have started. Members join when all groups have been taken, and the coder
// counts on them only when all of them have joined; until then it computes alone. Members wait for the coder and for
// each other, all of which run; the coder of a step that has been let go waits for its members before it ends
// (dismiss).
#pragma once
#include "entropy/cuda/step_network.cuh"

namespace ccm {

// Copies bytes to shared memory from what other blocks have written: loads before stores, which may alias anything.
CCM_DEVICE void fetch(const Team& team, void* to, const void* from, int32_t bytes) {
  constexpr int kAtOnce = 2;
  const int32_t n = bytes / 16, step = team.threads();
#pragma unroll 1
  for (int32_t i = team.thread(); i < n; i += kAtOnce * step) {
    uint4 some[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) some[k] = ld_cg(static_cast<const uint4*>(from) + min(i + k * step, n - 1));
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (i + k * step < n) static_cast<uint4*>(to)[i + k * step] = some[k];
  }
}

// What a group's coder and its crew tell each other.
struct CrewLink {
  const LatentsArgs& a;
  int32_t image, group;

  CCM_DEVICE int32_t* counters() const { return a.counters(image, group) + a.crew.counters; }
  CCM_DEVICE int32_t* joined() const { return counters() + CrewCounters::kJoined; }
  // What part p of a slot has done: the number of its last layer, see done_after().
  CCM_DEVICE int32_t* done(int32_t slot, int32_t p) const {
    return counters() + CrewCounters::kDone + slot * a.crew.parts + p;
  }
  // Layers of all chunks that a member may have computed, those of chunk `turn` of its slot in a step included.
  CCM_DEVICE int32_t done_after(int32_t step, int32_t turn, int32_t depth) const {
    return (step * a.crew.turns + turn + 1) * depth;
  }

  CCM_DEVICE uint8_t* own() const { return a.exchange + static_cast<int64_t>(image * a.groups + group) * a.crew.bytes; }
  CCM_DEVICE int16_t* means(int32_t chunk) const {
    return reinterpret_cast<int16_t*>(own() + static_cast<int64_t>(chunk) * a.crew.parameters);
  }
  CCM_DEVICE uint8_t* scales(int32_t chunk) const {
    return own() + static_cast<int64_t>(chunk) * a.crew.parameters + a.crew.scales;
  }
  // Of a layer, for chunks that follow one another in turns.
  CCM_DEVICE uint8_t* features(int32_t slot, int32_t odd, int32_t layer) const {
    const int32_t which = (slot * 2 + odd) * a.crew.layers + layer;
    return own() + a.crew.features + static_cast<int64_t>(which) * a.arena.feature_bytes;
  }

  CCM_DEVICE bool complete() const { return ld_relaxed(joined()) >= a.crew.members(); }
  // For a little while: they start when the coder does, if there is room for them at all.
  CCM_DEVICE bool wait_for_members() const {
    for (int32_t tries = 0; tries < 32; ++tries) {
      if (complete()) return true;
      __nanosleep(200);
    }
    return false;
  }

  // One thread, behind a barrier: the latents before a step, and its bases, are there.
  CCM_DEVICE void go(int32_t step) const {
#if CCM_FAULT == 10
    st_relaxed(counters() + CrewCounters::kGo, step + 1);
#else
    announce(counters() + CrewCounters::kGo, step + 1);
#endif
  }
  CCM_DEVICE void end() const { announce(counters() + CrewCounters::kGo, kCrewEnd); }

  // Until all parts of a slot have done so much; the team's first warp, others wait at a barrier behind it.
  CCM_DEVICE void wait_for_parts(const Team& team, int32_t slot, int32_t wanted) const {
    if (team.warp() != 0) return;
    const int32_t lane = lane_here();
    const int32_t* const flag = lane < a.crew.parts ? done(slot, lane) : nullptr;
    while (!__all_sync(kWarp, !flag || ld_acquire(flag) >= wanted)) {
    }
    __syncwarp();
  }

  // Means and scales of a chunk of a step, once its members have computed them, to where they lie in the arena.
  CCM_DEVICE void collect(const Team& team, int32_t step, int32_t chunk, int32_t depth, int16_t* to) const {
    const auto turn = static_cast<int32_t>(quotient(static_cast<uint32_t>(chunk), a.crew.per_slot));
    wait_for_parts(team, chunk - turn * a.crew.slots, done_after(step, turn, depth));
    team.sync();
    fetch(team, to, means(chunk), a.crew.parameters);
    team.sync();
  }

  // The whole block: the group has ended, in a step of `count` positions.
  CCM_DEVICE void dismiss(int32_t step, int32_t count, int32_t depth) const {
    const Team all{0};
    for (int32_t chunk = 0, slot = 0, turn = 0; chunk * kChunk < count; ++chunk) {
      wait_for_parts(all, slot, done_after(step, turn, depth));
      if (++slot == a.crew.slots) slot = 0, ++turn;
    }
    __syncthreads();
    if (threadIdx.x == 0) end();
  }
};

// A block in a crew.
class CrewMember : StepNetwork<true> {
 public:
  CCM_DEVICE CrewMember(const LatentsArgs& a, unsigned char* shared) : StepNetwork<true>(a, shared, shared) {}

  // Takes a place in the crew of a group; false: there is none, and will be none.
  CCM_DEVICE bool join() {
    CCM_SHARED(found, int32_t[3]);
    if (threadIdx.x == 0) {
      found[0] = -1;
      for (int32_t image = 0; image < a_.batch && found[0] < 0; ++image)
        for (int32_t group = 0; group < m_.groups && found[0] < 0; ++group) {
          if (!(a_.crew.groups >> group & 1)) continue;
          const CrewLink link{a_, image, group};
          if (link.complete()) continue;
          const int32_t place = atomicAdd(link.joined(), 1);
          if (place < a_.crew.members()) found[0] = place, found[1] = image, found[2] = group;
        }
    }
    __syncthreads();
    const int32_t place = found[0];
    image_ = found[1];
    group_ = found[2];
    __syncthreads();
    slot_ = static_cast<int32_t>(quotient(static_cast<uint32_t>(max(place, 0)), a_.crew.per_part));
    part_ = place - slot_ * a_.crew.parts;
    return place >= 0;
  }

  // Until the group has ended.
  CCM_DEVICE void serve() {
    // What acquiring would otherwise bring anew at every step.
    channels_ = d().channels;
    depth_ = layers();
    const int32_t early_steps = d().spatial.early_steps;
    table_ = m_.at<uint8_t>(m_.scale_table);
    if (a_.crew.table >= 0) {
      uint8_t* const to = shared_ + a_.crew.table;
#pragma unroll 1
      for (int32_t k = threadIdx.x; k < m_.scale_codes; k += blockDim.x) to[k] = table_[k];
      table_ = to;
    }
    find_planes();
    keep_weights(a_.crew.weights, part_, [this](int32_t tiles) {
      return static_cast<int32_t>(quotient(static_cast<uint32_t>(tiles + a_.crew.parts - 1), a_.crew.per_part));
    });
    __syncthreads();
    early_ = order().gaps ? 0 : early_steps;
    int32_t step = wait_for_go(1) - 1, begun = -1;  // the step of which a chunk's sums are begun
    for (; step < order().steps && wait_for_go(step + 1) != kCrewEnd; ++step) {
      const int32_t count = count_of(step);
      for (int32_t turn = 0, at = slot_ * kChunk; at < count; ++turn, at += a_.crew.slots * kChunk) {
        const bool ahead = turn == 0 && begun == step;
        if (!ahead) load_positions(Team{0}, order().first[step] + at, min(kChunk, count - at));
        compute((step * a_.crew.turns + turn) & 1, at / kChunk, ahead ? early_ : 0,
                link().done_after(step, turn, depth_) - depth_);
      }
      const int32_t at = slot_ * kChunk, next = step + 1;
      if (next == order().steps || !early_ || at >= count_of(next)) continue;
      load_positions(Team{0}, order().first[next] + at, min(kChunk, count_of(next) - at));
      look_ahead_of_rows(min(kChunk, count_of(next) - at));
      begun = next;
    }
  }

 private:
  CCM_DEVICE CrewLink link() const { return {a_, image_, group_}; }
  CCM_DEVICE int32_t count_of(int32_t step) const { return order().first[step + 1] - order().first[step]; }
  CCM_DEVICE uint8_t* rows() const { return shared_ + a_.crew.rows; }
  CCM_DEVICE uint4& begun_sums(int32_t tile, int32_t n, int32_t lane) const {
    return reinterpret_cast<uint4*>(shared_ + a_.crew.ahead)[(tile * kChunkNT + n) * 32 + lane];
  }

  // Until the coder lets go a step, `wanted` - 1, or ends.
  CCM_DEVICE int32_t wait_for_go(int32_t wanted) const {
    CCM_SHARED(go, int32_t);
    if (threadIdx.x == 0) {
      const int32_t* const flag = link().counters() + CrewCounters::kGo;
      int32_t found = ld_acquire(flag);
      while (found < wanted) found = ld_acquire(flag);
      go = found;
    }
    __syncthreads();
    const int32_t found = go;
    __syncthreads();
    return found;
  }

  // What products first .. end - 1 of the loaded positions' own context read, each position's bytes together.
  CCM_DEVICE void gather(int32_t first, int32_t end) const {
    constexpr int kGathered = 4;  // words that are loaded at once
    const Team all{0};
    const DevicePlane context = planes()->context;
    const int32_t lane = lane_here(), words = (end - first) * 8, units = (words + 31) / 32 * kChunk;
    const uint32_t* const from = offsets() + first * 8;
#pragma unroll 1
    for (int32_t u = all.warp(); u < units; u += kGathered * all.warps()) {
      unsigned some[kGathered];
      uint8_t* to[kGathered];
#pragma unroll
      for (int k = 0; k < kGathered; ++k) {
        const int32_t unit = u + k * all.warps(), p = unit % kChunk, word = unit / kChunk * 32 + lane;
        to[k] = unit < units && word < words ? rows() + p * a_.crew.stride + (first * 8 + word) * 4 : nullptr;
        const uint32_t at = positions()[p];
        some[k] = load_word(context.at(at >> 16, at & 0xffff) + static_cast<int32_t>(from[min(word, words - 1)]));
      }
#pragma unroll
      for (int k = 0; k < kGathered; ++k)
        if (to[k]) *reinterpret_cast<unsigned*>(to[k]) = some[k];
    }
  }

  // Products first .. end - 1 of one tile of the first layer, from gathered rows.
  CCM_DEVICE void add_rows(const StepLayer& c, int32_t m_tile, int32_t first, int32_t end,
                           Accumulators<kChunkNT>& acc) const {
    const int32_t lane = threadIdx.x & 31;
    const uint8_t* at[kChunkNT];
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n) at[n] = rows() + (n * kTileN + lane / 4) * a_.crew.stride + first * kTileK;
    if (first < end) product_rows(end - first, at, c.weights(m_tile) + first * 32, acc);
  }

  // What the products of the first layer are added to.
  CCM_DEVICE void add_base(int32_t m_tile, Accumulators<kChunkNT>& acc) const {
    const int32_t lane = lane_here();
    const Base base = planes()->base;
    int32_t sum[kChunkNT][4];
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const uint32_t q = positions()[n * kTileN + (lane & 3) * 2 + k];
        const int32_t* const from = base.at(q >> 16, q & 0xffff) + m_tile * kTileM + lane / 4;
        sum[n][k] = from[0];
        sum[n][2 + k] = from[8];
      }
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) acc.v[n][k] += sum[n][k];
  }

  // Of `count` loaded positions of the next step: those products of the first layer that see no latent of this one, and
  // the bases, if they are there.
  CCM_DEVICE void look_ahead_of_rows(int32_t count) {
    const int32_t lane = lane_here(), layer = planes()->dense_layer;
    bool there = true;
    if (layer >= 0 && static_cast<int32_t>(threadIdx.x) < count) {
      const int32_t* const flag = GroupPlanes(a_, image_, group_).flag(layer, tile_at(positions()[threadIdx.x]));
      there = ld_relaxed(flag);
      if (there) ld_acquire(flag);
    }
    based_ = __syncthreads_and(there);
    gather(0, early_);
    __syncthreads();
    const StepLayer c = step_layers()[0];
#pragma unroll 1
    for (int32_t m_tile = c.first + static_cast<int32_t>(threadIdx.x / 32); m_tile < c.m_tiles;
         m_tile += blockDim.x / 32) {
      Accumulators<kChunkNT> acc;
      start_from(0, 0, acc);
      if (based_) add_base(m_tile, acc);
      add_rows(c, m_tile, 0, early_, acc);
#pragma unroll
      for (int n = 0; n < kChunkNT; ++n)
        begun_sums(m_tile - c.first, n, lane) = {static_cast<unsigned>(acc.v[n][0]), static_cast<unsigned>(acc.v[n][1]),
                                                 static_cast<unsigned>(acc.v[n][2]),
                                                 static_cast<unsigned>(acc.v[n][3])};
    }
  }

  // This block's part of the network of a chunk of a step: its positions are loaded, `begun` products of its first
  // layer added up. `done`: what the member has done before. `odd`: chunks of a slot take turns with the exchange.
  CCM_DEVICE void compute(int32_t odd, int32_t chunk, int32_t begun, int32_t done) {
    const int32_t lane = threadIdx.x & 31;
    const Team all{0};
    const bool shares = a_.crew.parts > 1;
    StepLayer c = step_layers()[0];
    gather(begun, c.k_steps);
    int32_t m_tile = c.first + all.warp();
    LaneNumbers numbers{};
    Accumulators<kChunkNT> acc;
    start_from(0, 0, acc);
    if (m_tile < c.m_tiles) {
      numbers = LaneNumbers::of(c, m_tile);
      if (begun) begun_sums(m_tile - c.first, acc);
    }
    __syncthreads();
#pragma unroll 1
    while (m_tile < c.m_tiles) {
      if (!begun || !based_) add_base(m_tile, acc);
      add_rows(c, m_tile, begun, c.k_steps, acc);
      put(c, m_tile, numbers, acc, chunk, shares ? link().features(slot_, odd, 0) : features());
      m_tile += all.warps();
      if (m_tile < c.m_tiles) {
        numbers = LaneNumbers::of(c, m_tile);
        start_from(0, 0, acc);
        if (begun) begun_sums(m_tile - c.first, acc);
      }
    }
#pragma unroll 1
    for (int32_t l = 0;; ++l) {  // layer l is done by this warp
      const bool more = c.output != kHead;
      c = step_layers()[more ? l + 1 : 0];  // any, if this was the last
      m_tile = c.first + all.warp();
      if (m_tile < c.m_tiles) numbers = LaneNumbers::of(c, m_tile);
      __syncthreads();
      if ((shares || !more) && threadIdx.x == 0) announce(link().done(slot_, part_), done + l + 1);
      if (!more) break;
      uint8_t* const in = features() + (l & 1) * a_.arena.feature_bytes;
      if (shares) {
#if CCM_FAULT != 11
        link().wait_for_parts(all, slot_, done + l + 1);
#endif
        __syncthreads();
        fetch(all, in, link().features(slot_, odd, l), a_.arena.feature_bytes);
        __syncthreads();
      }
      uint8_t* const out = shares ? link().features(slot_, odd, l + 1) : features() + (~l & 1) * a_.arena.feature_bytes;
#pragma unroll 1
      while (m_tile < c.m_tiles) {
        const uint8_t* at[kChunkNT];
#pragma unroll
        for (int n = 0; n < kChunkNT; ++n) at[n] = in + (n * kTileN + lane / 4) * c.stride;
        start_from(numbers.low.bias, numbers.high.bias, acc);
        product_rows(c.k_steps, at, c.weights(m_tile), acc);
        put(c, m_tile, numbers, acc, chunk, out);
        m_tile += all.warps();
        if (m_tile < c.m_tiles) numbers = LaneNumbers::of(c, m_tile);
      }
    }
  }

  // What is begun of a member's tile.
  CCM_DEVICE void begun_sums(int32_t tile, Accumulators<kChunkNT>& acc) const {
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n) {
      const uint4 four = begun_sums(tile, n, static_cast<int32_t>(threadIdx.x & 31));
      acc.v[n][0] = static_cast<int>(four.x), acc.v[n][1] = static_cast<int>(four.y);
      acc.v[n][2] = static_cast<int>(four.z), acc.v[n][3] = static_cast<int>(four.w);
    }
  }

  // A tile of a layer of a chunk: features to `out`, or parameters to where the coder looks for them.
  CCM_DEVICE void put(const StepLayer& c, int32_t m_tile, const LaneNumbers& numbers, const Accumulators<kChunkNT>& acc,
                      int32_t chunk, uint8_t* out) const {
    const int32_t channel = m_tile * kTileM + static_cast<int32_t>(threadIdx.x & 31) / 4;
    const Rescale rescale[2] = {Rescale::of(numbers.low), Rescale::of(numbers.high)};
    if (c.output == kHead)
      put_parameters(channel, rescale, acc, link().means(chunk), link().scales(chunk), channels_, table_);
    else
      put_features(channel, rescale, c.zero, acc, out, c.stride);
  }

  int32_t slot_ = 0, part_ = 0;
  int32_t channels_ = 0, depth_ = 0;  // of the group
  int32_t early_ = 0;                 // products that see no latent of the step before
  const uint8_t* table_ = nullptr;
  bool based_ = false;  // the sums that are begun hold their bases
};

}  // namespace ccm
