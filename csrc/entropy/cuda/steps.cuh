// One block codes one group of one image: its steps, one after another.
#pragma once
#include "entropy/cuda/chase.cuh"
#include "entropy/cuda/rans_warp.cuh"
#include "format/residual.h"
#include "format/tables.h"

namespace ccm {

// Steps between two announcements of progress, which a warp makes that has nothing else to do at the time.
constexpr int32_t kStepsPerNews = 1;

constexpr int kChunkNT = kChunk / kTileN;  // tiles of products

// The planes and the order of a coder's group.
struct CoderPlanes {
  DevicePlane context;
  Base base;
  GroupOrder order;
};

// Where a coded symbol belongs.
struct alignas(8) Target {
  uint32_t position;  // i << 16 | j
  int16_t offset;     // of its mean; residual models: its mean code
  uint16_t channel;   // of its group
};

// What a layer of the step's network needs at once, in the arena: descriptors in device memory cost a wait each.
struct alignas(16) StepLayer {
  const uint4* near;  // weights of its first tiles, which lie in shared memory
  const uint4* far;   // of all tiles
  const ChannelNumbers* numbers;
  int32_t near_tiles, m_tiles, k_steps, output, zero;

  CCM_DEVICE const uint4* weights(int32_t m_tile) const {
    return (m_tile < near_tiles ? near : far) + m_tile * k_steps * 32;
  }
};

static_assert(sizeof(WarpDecoder) <= kDecoderBytes && sizeof(CoderPlanes) <= kPlanesBytes &&
                  sizeof(StepLayer) <= kStepLayerBytes,
              "the arena is too small");

// kInShared: the arena and the tables lie in shared memory, which the compiler then knows; otherwise either may.
template <bool kInShared>
class GroupCoder {
 public:
  // `arena`: this block's memory, in `shared` or not.
  CCM_DEVICE GroupCoder(const LatentsArgs& a, unsigned char* shared, unsigned char* arena)
      : a_(a), m_(*a.model), shared_(shared), arena_(kInShared ? shared : arena) {
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < kNumScales; i += blockDim.x) scale_rows()[i] = m_.scale_rows[i];
    if (a_.tables >= 0) copy(shared_ + a_.tables, m_.at<RowWindow>(m_.y_rows.windows), m_.y_rows.window_bytes());
  }

  CCM_DEVICE bool active() const { return group_ >= 0; }
  CCM_DEVICE int32_t image() const { return image_; }
  CCM_DEVICE int32_t group() const { return group_; }

  CCM_DEVICE void begin(int32_t image, int32_t group) {
    const GroupPlanes planes(a_, image, group);
    image_ = image;
    group_ = group;
    step_ = at_ = carried_ = 0;
    untold_ = false;
#pragma unroll 1
    for (int32_t i = threadIdx.x; known() && i < a_.tiles; i += blockDim.x) known()[i] = 0;
    keep_weights();
    if (threadIdx.x == 0) {
      *stop() = 0;
      *coded() = 0;
      *this->planes() = {planes.context(), planes.base(), a_.order.of(group)};
    }
    if (kInShared && threadIdx.x < kMostAhead) ahead_steps()[threadIdx.x] = -1;
    if (!a_.encoding) open_stream();
    __syncthreads();
  }

  // Whether the base of the next chunk's positions is there.
  CCM_DEVICE bool ready() {
    const int32_t last = chasing_layers(d()) - 1;
    if (last < 0) return true;
    const GroupPlanes planes(a_, image_, group_);
    const int32_t first = order().first[step_] + at_, end = min(first + kChunk, order().first[step_ + 1]);
    bool there = true;
#pragma unroll 1
    for (int32_t p = first + static_cast<int32_t>(threadIdx.x); p < end; p += blockDim.x) {
      const int32_t tile = tile_of(p);
      if (known() && known()[tile]) continue;
      if (ld_relaxed(planes.flag(last, tile)))
        ld_acquire(planes.flag(last, tile));
      else
        there = false;
    }
    if (!__syncthreads_and(there)) return false;
    // The barrier handed on what some threads have acquired.
#pragma unroll 1
    for (int32_t p = first + static_cast<int32_t>(threadIdx.x); known() && p < end; p += blockDim.x)
      atomicExch(known() + tile_of(p), 1);
    return true;
  }

  // Announces the steps that are done, if that has not happened yet: the last warp, which has the fewest tiles of the
  // network. To be called where the coder waits; a step's network calls it otherwise.
  CCM_DEVICE void tell() {
    if (untold_ && threadIdx.x == blockDim.x - 32) {
      announce(a_.counters(image_, group_) + GroupProgress::kStepsDone, step_);
      if (ld_relaxed(a_.failed(image_))) *stop() = 1;
    }
    untold_ = false;
  }

  // Codes the next chunk. After the last one of all, or after a failure, the coder is no longer active.
  CCM_DEVICE void advance() {
    const int32_t first = order().first[step_], count = order().first[step_ + 1] - first;
    // Taps see the positions of earlier steps only; where they reach others of the same step, its latents enter the
    // plane when all of it is done.
    const bool to_context = count <= kChunk || !d().within_step, last = at_ + kChunk >= count;
    const bool fine = chunk(first + at_, min(kChunk, count - at_), last, to_context);
    at_ += kChunk;
    if (fine && !last) return;
    for (int32_t at = 0; !to_context && at < count && fine; at += kChunk) {
      load_positions(first + at, min(kChunk, count - at));
      show_latents(min(kChunk, count - at));
      __syncthreads();
    }
    at_ = carried_ = 0;
    ++step_;
    int32_t* const counters = a_.counters(image_, group_);  // computed here: the kernel is short of registers
    const int32_t steps = order().steps;
    if (fine && step_ < steps) {
      untold_ = step_ % kStepsPerNews == 0;
#if CCM_FAULT == 1
      tell();
#endif
      return;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      Status status = fine ? kOk : kDamaged;
      for (int32_t q = 0; q < sequences_ && !a_.encoding; ++q) {
        const WarpDecoder decoder = *stream(q);
        const Status own = fine ? decoder.finish() : decoder.bad();
        if (q == 0 || status == kOk) status = own;
      }
      if (threadIdx.x == 0) {
        counters[GroupProgress::kStatus] = status;
        if (status != kOk) st_relaxed(a_.failed(image_), 1);
        // After a failure, too: later groups must not wait for what never comes; they meet the flag instead.
        announce(counters + GroupProgress::kStepsDone, steps);
      }
    }
    group_ = -1;
    __syncthreads();
  }

 private:
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
  // Encoding: the group's coded symbols so far.
  CCM_DEVICE int32_t* coded() const { return part<int32_t>(a_.arena.coded); }
  CCM_DEVICE Symbol* symbols() const { return part<Symbol>(a_.arena.symbols); }
  CCM_DEVICE uint32_t* modes() const { return part<uint32_t>(a_.arena.modes); }
  CCM_DEVICE Target* targets() const { return part<Target>(a_.arena.targets); }

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

  // The whole block copies bytes, sixteen at a time.
  CCM_DEVICE static void copy(void* to, const void* from, int64_t bytes) {
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < bytes / 16; i += blockDim.x)
      static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
  }

  // Copies into shared memory, as far as it goes: the channels' numbers, then weights in whole tiles, the last layers
  // first.
  CCM_DEVICE void keep_weights() {
    const int32_t depth = layers();
    int64_t at = a_.weights;
#pragma unroll 1
    for (int32_t l = 0; l < depth; ++l) {
      const DeviceConv& c = layer(l);
      const int64_t bytes = static_cast<int64_t>(c.m_tiles) * kTileM * sizeof(ChannelNumbers);
      const ChannelNumbers* numbers = m_.at<ChannelNumbers>(c.numbers);
      if (at + bytes <= a_.shared) {
        copy(shared_ + at, numbers, bytes);
        numbers = reinterpret_cast<const ChannelNumbers*>(shared_ + at);
        at += bytes;
      }
      if (threadIdx.x == 0) {
        const uint4* const far = m_.at<uint4>(c.weights);
        step_layers()[l] = {far, far, numbers, 0, c.m_tiles, c.k_steps, c.output, c.zero};
      }
    }
#pragma unroll 1
    for (int32_t l = depth - 1; l >= 0; --l) {
      const DeviceConv& c = layer(l);
      const int64_t tile = static_cast<int64_t>(c.k_steps) * 512;
      int32_t tiles = 0;
      while (tiles < c.m_tiles && at + (tiles + 1) * tile <= a_.shared) ++tiles;
      copy(shared_ + at, m_.at<uint4>(c.weights), tiles * tile);
      if (threadIdx.x == 0) {
        step_layers()[l].near = reinterpret_cast<const uint4*>(shared_ + at);
        step_layers()[l].near_tiles = tiles;
      }
      at += tiles * tile;
    }
    const DevicePlane context = GroupPlanes(a_, image_, group_).context();
    const uint32_t* const quads = m_.at<uint32_t>(d().spatial.quads);
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < d().spatial.k_steps * 8 + kMoreQuads; k += blockDim.x)
      offsets()[k] = static_cast<uint32_t>(quad_offset(quads[k], context.row_stride, context.stride));
  }

  CCM_DEVICE void open_stream() {
    const int64_t* segment = a_.segments + static_cast<int64_t>(image_ * m_.groups + group_) * 3;
    const int64_t offset = segment[0], size = segment[1];
    const bool inside = offset >= 0 && size >= 0 && offset <= a_.size && size <= a_.size - offset;
    const bool valid = inside && valid_streams(segment[2]);
    const int64_t code = valid ? segment[2] : 1;
    sequences_ = sequences_of(code);
    for (int32_t q = threadIdx.x / 32; q < sequences_; q += blockDim.x / 32) {
      WarpDecoder decoder;
      decoder.open(a_.data + (valid ? offset : 0), valid ? size : 0, code, q, ring(q));
      *stream(q) = decoder;
    }
  }

  // Tile of a position of the coding order.
  CCM_DEVICE int32_t tile_of(int32_t p) const {
    const uint32_t at = order().positions[p];
    const uint32_t shift = d().shift[chasing_layers(d()) - 1];
    return static_cast<int32_t>(((at >> 16) + shift) / kDenseRows * a_.order.tiles_j +
                                ((at & 0xffff) + shift) / kDenseColumns);
  }

  CCM_DEVICE void load_positions(int32_t first, int32_t count) {
#pragma unroll 1
    for (int32_t p = threadIdx.x; p < kChunk; p += blockDim.x)
      positions()[p] = order().positions[first + (p < count ? p : 0)];  // the rest repeat the first
    __syncthreads();
  }

  // Positions first .. first + count of the coding order, part of a step; `last`: its last ones. False when the image
  // has failed.
  CCM_DEVICE bool chunk(int32_t first, int32_t count, bool last, bool to_context) {
    CCM_SHARED(bad, int32_t);
    load_positions(first, count);
    network();
    if (kInShared && threadIdx.x < kMostAhead) ahead_steps()[threadIdx.x] = -1;  // taken
    const int32_t listed = list_symbols(count, carried_, to_context);
    if (threadIdx.x == 0) bad = 0;
    __syncthreads();
    if (*stop()) return false;
    const int32_t done = last || a_.encoding ? listed : listed & ~(kSequenceLanes * sequences_ - 1);
    if (!(a_.encoding ? take_symbols(listed) : decode_symbols(done, last))) atomicExch(&bad, 1);
    if constexpr (kInShared)
      if (!a_.encoding && static_cast<int32_t>(threadIdx.x / 32) >= sequences_) look_ahead(first + count, last);
    __syncthreads();
    if (a_.encoding && threadIdx.x == 0) {
      *coded() += listed;
      a_.ends[static_cast<int64_t>(image_ * m_.groups + group_) * a_.h * a_.w + step_] = *coded();
    }
    if (bad) return false;
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < done; k += blockDim.x) {
      const Symbol symbol = symbols()[k];
      publish(targets()[k], key_row(symbol.key), symbol.value, to_context);
    }
    carried_ = listed - done;
    if (last) return true;
    __syncthreads();
#pragma unroll 1
    for (int32_t k = threadIdx.x; done > 0 && k < carried_; k += blockDim.x) {
      symbols()[k] = symbols()[done + k];
      modes()[k] = modes()[done + k];
      targets()[k] = targets()[done + k];
    }
    return true;
  }

  // The first n symbols of the list, by a warp a sequence; `last`: they end a step. False: damage.
  CCM_DEVICE bool decode_symbols(int32_t n, bool last) {
    bool fine = true;
#pragma unroll 1
    for (int32_t q = threadIdx.x / 32; q < sequences_; q += blockDim.x / 32) {
      WarpDecoder decoder = *stream(q);  // a copy in registers while it runs; in between others need them
      const int32_t own = symbols_of_sequence(n, sequences_, q);
      const int32_t at = q * kSequenceLanes;
      if (own && decoder.bad() == kOk) decoder.decode(tables(), symbols() + at, modes() + at, own, unit(), ring(q));
      if (last) decoder.end_step(own);  // those before were whole rounds
      fine &= decoder.bad() == kOk;
      *stream(q) = decoder;
    }
    return fine;
  }

  // Of the positions from p on, which come after the present chunk (`last`: of its step): base and those taps that see
  // no latent of the present step, as accumulators. By the warps that do not decode; each only if the base is there.
  // Not where the arena may lie elsewhere: the kernel is short of registers.
  CCM_DEVICE void look_ahead(int32_t p, bool last) {
    const DeviceConv& c = d().spatial;
    if (c.m_tiles > kMostAhead || (last && step_ + 1 >= order().steps)) return;
    const int32_t end = min(p + kChunk, order().first[step_ + (last ? 2 : 1)]), lane = lane_here();
    const GroupPlanes planes(a_, image_, group_);
    if (const int32_t layer = chasing_layers(d()) - 1; layer >= 0) {
      const int32_t* const flag = lane < end - p ? planes.flag(layer, tile_of(p + lane)) : nullptr;
      if (!__all_sync(kWarp, !flag || ld_relaxed(flag))) return;
      if (flag) ld_acquire(flag);
      __syncwarp();
    }
    const int32_t steps = !last ? c.k_steps : (order().gaps ? 0 : c.early_steps);
    const uint32_t* const at = order().positions + p;
    const int32_t warps = blockDim.x / 32 - sequences_;
    // The last tiles first, whose weights may lie further away; who has done one of those takes a second one last.
#pragma unroll 1
    for (int32_t done = 0, mine = threadIdx.x / 32 - sequences_; done + mine < c.m_tiles; done += warps) {
      const int32_t m_tile = c.m_tiles - 1 - done - mine;
      mine = warps - 1 - mine;
      Accumulators<kChunkNT> acc;
      add_context(m_tile, 0, steps, [=](int32_t k) { return at[p + k < end ? k : 0]; }, true, acc);
#pragma unroll
      for (int n = 0; n < kChunkNT; ++n)
        ahead(m_tile, n, lane) = {static_cast<unsigned>(acc.v[n][0]), static_cast<unsigned>(acc.v[n][1]),
                                  static_cast<unsigned>(acc.v[n][2]), static_cast<unsigned>(acc.v[n][3])};
      if (lane == 0) ahead_steps()[m_tile] = steps;
    }
  }

  // Products first .. end - 1 of the own context of chunk positions at(k); `with_base`: what they are added to is
  // loaded.
  template <class At>
  CCM_DEVICE void add_context(int32_t m_tile, int32_t first, int32_t end, At at, bool with_base,
                              Accumulators<kChunkNT>& acc) const {
    const int32_t lane = lane_here();
    const DevicePlane context = planes()->context;
    const Base base = planes()->base;
    const uint8_t* from[kChunkNT];
#pragma unroll
    for (int n = 0; n < kChunkNT; ++n) {
      const uint32_t p = at(n * kTileN + lane / 4);
      from[n] = context.at(p >> 16, p & 0xffff) + d().plane_channel;
    }
    if (with_base) {
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
    const auto same = [](uint32_t offset) { return static_cast<int32_t>(offset); };
    product(end - first, from, step_layers()->weights(m_tile) + first * 32, offsets() + first * 8, same, acc);
  }

  CCM_DEVICE uint4& ahead(int32_t m_tile, int32_t n, int32_t lane) const {
    return part<uint4>(a_.arena.ahead)[(m_tile * kChunkNT + n) * 32 + lane];
  }
  CCM_DEVICE int32_t* ahead_steps() const { return part<int32_t>(a_.arena.ahead_steps); }

  CCM_DEVICE int32_t unit() const { return m_.residual ? 1 << kMeanBits : 1; }

  // Parameters of a chunk: the network from the sum of contexts to means and scales. A warp's unit of work is a tile of
  // channels by all positions.
  CCM_DEVICE void network() {
    const int32_t lane = threadIdx.x & 31, warps = blockDim.x / 32;
    const int32_t stride = a_.arena.feature_stride;
    bool more = true;
#pragma unroll 1
    for (int32_t l = 0; more; ++l) {
      const StepLayer c = step_layers()[l];
      more = c.output != kHead;
#pragma unroll 1
      for (int32_t m_tile = threadIdx.x / 32; m_tile < c.m_tiles; m_tile += warps) {
        Accumulators<kChunkNT> acc;
        const int32_t channel = m_tile * kTileM + lane / 4;
        const ChannelNumbers low = c.numbers[channel], high = c.numbers[channel + 8];
        const Rescale rescale[2] = {Rescale::of(low), Rescale::of(high)};
        if (l == 0) {
          const int32_t begun = kInShared && m_tile < kMostAhead ? ahead_steps()[m_tile] : -1;
          if (begun >= 0) {
#pragma unroll
            for (int n = 0; n < kChunkNT; ++n) {
              const uint4 four = ahead(m_tile, n, lane);
              acc.v[n][0] = static_cast<int>(four.x), acc.v[n][1] = static_cast<int>(four.y);
              acc.v[n][2] = static_cast<int>(four.z), acc.v[n][3] = static_cast<int>(four.w);
            }
          }
          const uint32_t* const where = positions();
          add_context(m_tile, max(begun, 0), c.k_steps, [=](int32_t k) { return where[k]; }, begun < 0, acc);
        } else {
          const uint8_t* in = features() + ((l - 1) & 1) * a_.arena.feature_bytes;
          const uint8_t* at[kChunkNT];
#pragma unroll
          for (int n = 0; n < kChunkNT; ++n) at[n] = in + (n * kTileN + lane / 4) * stride;
          start_from(low.bias, high.bias, acc);
          product_rows(c.k_steps, at, c.weights(m_tile), acc);
        }
        if (!more)
          put_parameters(channel, rescale, acc);
        else
          put_features(channel, rescale, c.zero, acc, features() + (l & 1) * a_.arena.feature_bytes);
      }
      if (l == 0) tell();
      __syncthreads();
    }
  }

  // Results of this lane: of `channel` and `channel` + 8. There is room for those of positions that the step does not
  // have and of channels that the layer does not have; nobody looks at them. All are computed before the first is
  // stored, side by side.
  CCM_DEVICE void put_features(int32_t channel, const Rescale (&rescale)[2], int32_t zero,
                               const Accumulators<kChunkNT>& acc, uint8_t* out) const {
    const int32_t stride = a_.arena.feature_stride;
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
    const int32_t channels = d().channels, last = m_.scale_codes - 1, position = (threadIdx.x & 3) * 2;
    const uint8_t* table = m_.at<uint8_t>(m_.scale_table);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t of = channel + half * 8;
      int32_t value[kChunkNT][2];
#pragma unroll
      for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
        for (int k = 0; k < 2; ++k) value[n][k] = rescale[half].linear(acc.v[n][half * 2 + k]);
      if (of < channels) {
        int16_t* to = mean() + position * channels + of;
#pragma unroll
        for (int n = 0; n < kChunkNT; ++n)
#pragma unroll
          for (int k = 0; k < 2; ++k)
            to[(n * kTileN + k) * channels] = static_cast<int16_t>(clamp(value[n][k], -32768, 32767));
      } else if (of < 2 * channels) {
        uint8_t* to = scale() + position * channels + of - channels;
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

  // Lists those symbols of a chunk that are coded, behind `carried` others; the rest are their offsets, and are known
  // now. Returns how many the list holds.
  CCM_DEVICE int32_t list_symbols(int32_t count, int32_t carried, bool to_context) {
    const RowWindow* const rows = tables().windows;
    const int32_t lane = lane_here(), warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int32_t channels = d().channels, words = (channels + 31) / 32;
    const bool skipping = m_.skip_scale >= 0;
    if (skipping) {
      mark_coded(count, words);
      __syncthreads();
    }
    const uint32_t* const masks = part<uint32_t>(a_.arena.masks);
    // Symbols of the position that this lane stands for, then of all up to it.
    int32_t own = 0;
    if (lane < count) own = skipping ? 0 : channels;
    if (skipping && lane < count)
      for (int32_t k = 0; k < words; ++k) own += __popc(masks[lane * words + k]);
    int32_t sum = own;
#pragma unroll
    for (int32_t by = 1; by < 32; by *= 2) {
      const int32_t before = __shfl_up_sync(kWarp, sum, by);
      if (lane >= by) sum += before;
    }
    const int32_t listed = carried + __shfl_sync(kWarp, sum, 31);
#pragma unroll 1
    for (int32_t p = warp; p < count; p += warps) {
      int32_t at = carried + __shfl_sync(kWarp, sum - own, p);
      for (int32_t k = 0; k < words; k += kListed) at = list_words(rows, p, k, words, at, skipping, to_context);
    }
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < kMoreSymbols; i += blockDim.x) {
      symbols()[listed + i] = {rows[0].key, 0};
      modes()[listed + i] = kNever;
    }
    return listed;
  }

  // The same for kListed words of a position, 32 channels each: what is loaded for all comes before the first store.
  // `at`: where the list goes on; returned: behind them.
  static constexpr int kListed = 2;
  CCM_DEVICE int32_t list_words(const RowWindow* rows, int32_t p, int32_t first, int32_t words, int32_t at,
                                bool skipping, bool to_context) const {
    const int32_t lane = lane_here(), channels = d().channels;
    const uint32_t* const masks = part<uint32_t>(a_.arena.masks) + p * words;
    const uint32_t position = positions()[p];
    const bool residual = m_.residual;
    RowChoice choice[kListed];
    unsigned mask[kListed];
    uint32_t key[kListed], mode[kListed];
    int32_t lo_mode[kListed];
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      const int32_t k = min(first + u, words - 1), n = p * channels + min(k * 32 + lane, channels - 1);
      const int32_t mu = mean()[n];
      const ScaleRow sigma = scale_rows()[scale()[n]];
      mask[u] = skipping ? masks[k] : kWarp;
      choice[u] = residual ? RowChoice{mu, sigma.first_row} : choose_row(sigma, mu);
      const RowWindow& row = rows[choice[u].row];
      key[u] = row.key, mode[u] = row.mode, lo_mode[u] = row.lo_mode;
    }
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      const int32_t c = (first + u) * 32 + lane;
      if (c < channels) {
        const Target target{position, static_cast<int16_t>(choice[u].offset), static_cast<uint16_t>(c)};
        if (mask[u] >> lane & 1) {
          const int32_t place = at + __popc(mask[u] & ((1u << lane) - 1));
          const int32_t value = lo_mode[u] * unit() + choice[u].offset;
          symbols()[place] = {key[u], value};
          modes()[place] = symbol_fits(value) ? mode[u] : kNever;
          targets()[place] = target;
        } else {
          publish(target, choice[u].row, choice[u].offset, to_context);
        }
      }
      at += __popc(mask[u]);
    }
    return at;
  }

  // Which symbols of a chunk are coded: bit c % 32 of word c / 32 of a position.
  CCM_DEVICE void mark_coded(int32_t count, int32_t words) const {
    const int32_t lane = lane_here(), channels = d().channels;
    uint32_t* const masks = part<uint32_t>(a_.arena.masks);
#pragma unroll 1
    for (int32_t p = threadIdx.x / 32; p < count; p += blockDim.x / 32)
#pragma unroll 1
      for (int32_t k = 0; k < words; ++k) {
        const int32_t c = k * 32 + lane;
        const unsigned mask = __ballot_sync(kWarp, c < channels && scale()[p * channels + c] > m_.skip_scale);
        if (lane == 0) masks[p * words + k] = mask;
      }
  }

  // In y, and in planes of its shape.
  CCM_DEVICE int64_t place_in_y(uint32_t position, int32_t channel) const {
    const int64_t row = static_cast<int64_t>(image_) * a_.h + (position >> 16);
    return (row * a_.w + (position & 0xffff)) * m_.latent_channels + d().first_channel + channel;
  }

  // Encoding: the n listed symbols as the caller gave them, and what they are coded as. False: one cannot be coded.
  CCM_DEVICE bool take_symbols(int32_t n) {
    uint64_t* to = a_.coded + static_cast<int64_t>(image_) * a_.h * a_.w * m_.latent_channels +
                   static_cast<int64_t>(a_.h) * a_.w * d().first_channel + *coded();
    bool fine = true;
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < n; k += blockDim.x) {
      const Target target = targets()[k];
      const int64_t at = place_in_y(target.position, target.channel);
      int32_t symbol, v;
      if (m_.residual) {
        v = residual_symbol(static_cast<const int32_t*>(a_.given)[at], target.offset);
        symbol = residual_latent(v, target.offset);
      } else {
        symbol = static_cast<const int16_t*>(a_.given)[at];
        v = symbol - target.offset;
      }
      if (!symbol_fits(symbol)) fine = false;
      symbols()[k].value = symbol;
      to[k] = static_cast<uint64_t>(key_row(symbols()[k].key)) << 32 | static_cast<uint32_t>(v);
    }
    return fine;
  }

  // A latent to y, with the place of what it stands for if that is wanted, and into the context plane.
  CCM_DEVICE void publish(const Target& target, int32_t row, int32_t value, bool to_context) const {
    int16_t* y = a_.y + place_in_y(target.position, target.channel);
#if CCM_FAULT == 4
    ++y;
#endif
    *y = static_cast<int16_t>(value);
    if (a_.places)
      a_.places[y - a_.y] = row * (2 * a_.reach + 1) + clamp(value - target.offset, -a_.reach, a_.reach) + a_.reach;
    if (to_context) show(target.position, target.channel, value);
  }

  CCM_DEVICE void show(uint32_t position, int32_t channel, int32_t value) const {
    const int32_t at = d().plane_channel + channel;
    if (m_.scaled_context)
      value = requantize(value, m_.at<int32_t>(m_.context_mult)[at], m_.at<int32_t>(m_.context_shift)[at]);
    planes()->context.at(position >> 16, position & 0xffff)[at] = static_cast<uint8_t>(clamp_context(value) + 128);
  }

  // Latents of loaded positions from y into the context plane.
  CCM_DEVICE void show_latents(int32_t count) const {
#pragma unroll 1
    for (int32_t p = threadIdx.x / 32; p < count; p += blockDim.x / 32)
      for (int32_t c = threadIdx.x & 31; c < d().channels; c += 32)
        show(positions()[p], c, a_.y[place_in_y(positions()[p], c)]);
  }

  const LatentsArgs& a_;
  const DeviceModel& m_;
  unsigned char* const shared_;
  unsigned char* const arena_;
  int32_t image_ = 0, group_ = -1, step_ = 0;  // group -1: none
  int32_t at_ = 0;                             // positions of the step that are done
  // Symbols that the chunk before has left at the front of the list: what did not fill a round of every sequence.
  int32_t carried_ = 0;
  bool untold_ = false;    // steps are done that have not been announced
  int32_t sequences_ = 1;  // of the stream
};

}  // namespace ccm
