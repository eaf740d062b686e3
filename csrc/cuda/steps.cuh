// One block codes one group of one image: its steps, one after another.
#pragma once
#include "ccm/tables.h"
#include "cuda/chase.cuh"
#include "cuda/rans_warp.cuh"

namespace ccm {

// Steps between two announcements of progress: an announcement costs its thread a fence (about 280 cycles on an H100),
// a late one keeps the next group waiting.
constexpr int32_t kStepsPerNews = 2;

// Offsets of an encoder's latents: 1/256 in residual models.
CCM_DEVICE int32_t round_256(int32_t v) { return (v + 128) >> 8; }

class GroupCoder {
 public:
  CCM_DEVICE GroupCoder(const LatentsArgs& a, int32_t image, int32_t group, unsigned char* shared, unsigned char* arena)
      : a_(a),
        m_(*a.model),
        planes_(a, image, group),
        d_(planes_.d),
        context_(planes_.context()),
        base_(planes_.base()) {
    const ArenaLayout& l = a.arena;
    features_ = arena + l.features;
    mean_ = reinterpret_cast<int16_t*>(arena + l.mean);
    scale_ = arena + l.scale;
    work_ = {reinterpret_cast<uint32_t*>(arena + l.key), reinterpret_cast<int32_t*>(arena + l.value),
             reinterpret_cast<uint16_t*>(arena + l.row), reinterpret_cast<int16_t*>(arena + l.symbol)};
    scale_rows_ = reinterpret_cast<ScaleRow*>(arena + l.scale_rows);
    positions_ = reinterpret_cast<uint32_t*>(arena + l.positions);
    known_ = l.known ? reinterpret_cast<int32_t*>(arena + l.known) : nullptr;
    weights_ = reinterpret_cast<const uint4**>(arena + l.weights);
    for (int32_t i = threadIdx.x; i < kNumScales; i += blockDim.x) scale_rows_[i] = m_.scale_rows[i];
    for (int32_t i = threadIdx.x; known_ && i < a.tiles; i += blockDim.x) known_[i] = 0;
    keep_weights(shared);
  }

  CCM_DEVICE void run() {
    CCM_SHARED(stop, int32_t);
    if (threadIdx.x == 0) stop = 0;
    if (!a_.encoding && threadIdx.x < 32) open_stream();
    __syncthreads();
    const int32_t steps = a_.order.steps;
    int32_t* const counters = planes_.counters();
    bool fine = true;
    for (int32_t s = 0; s < steps && fine; ++s) {
      const int32_t first = a_.order.first[s], count = a_.order.first[s + 1] - first;
      await_base(first, count);
      for (int32_t at = 0; at < count && fine; at += kChunk)
        fine = chunk(s, first + at, min(kChunk, count - at), &stop);
      if (count > kChunk && fine) {
        // Taps see the positions of earlier steps only, so a step's latents enter the plane when all of it is done.
        for (int32_t at = 0; at < count; at += kChunk) {
          load_positions(first + at, min(kChunk, count - at));
          publish_latents(min(kChunk, count - at), false, true);
          __syncthreads();
        }
      }
#if CCM_FAULT != 1
      __syncthreads();
#endif
      if (threadIdx.x == 0 && ((s + 1) % kStepsPerNews == 0 || s + 1 == steps)) {
        announce(counters, s + 1);
        if (ld_relaxed(a_.failed(planes_.image))) stop = 1;
      }
    }
    if (!a_.encoding && threadIdx.x < 32) {
      const Status status = fine ? decoder_.finish() : decoder_.bad();
      if (threadIdx.x == 0) {
        counters[GroupProgress::kStatus] = status;
        if (status != kOk) st_relaxed(a_.failed(planes_.image), 1);
      }
    }
    if (a_.encoding && !fine && threadIdx.x == 0) {
      counters[GroupProgress::kStatus] = kDamaged;
      st_relaxed(a_.failed(planes_.image), 1);
    }
    // After a failure the later groups must not wait for what never comes; they meet the flag instead.
    __syncthreads();
    if (threadIdx.x == 0 && !fine) announce(counters, steps);
  }

 private:
  CCM_DEVICE static void announce(int32_t* counters, int32_t steps) {
#if CCM_FAULT == 2
    st_relaxed(counters + GroupProgress::kStepsDone, steps);
#else
    st_release(counters + GroupProgress::kStepsDone, steps);
#endif
  }

  CCM_DEVICE const DeviceConv& layer(int32_t l) const {
    return l == 0 ? d_.spatial : (l <= d_.hidden_layers ? d_.hidden[l - 1] : d_.head);
  }
  CCM_DEVICE int32_t layers() const { return d_.spatial.output == kHead ? 1 : d_.hidden_layers + 2; }

  // Copies weights into shared memory, the last layers first, as long as they fit.
  CCM_DEVICE void keep_weights(unsigned char* shared) {
    int64_t at = a_.arena_in_shared ? a_.arena.bytes : 0;
    for (int32_t l = layers() - 1; l >= 0; --l) {
      const DeviceConv& c = layer(l);
      const int64_t bytes = static_cast<int64_t>(c.m_tiles) * c.k_steps * 512;
      const uint4* from = m_.at<uint4>(c.weights);
      const bool fits = at + bytes <= a_.shared;
      uint4* to = reinterpret_cast<uint4*>(shared + at);
      if (threadIdx.x == 0) weights_[l] = fits ? to : from;
      if (!fits) continue;
      for (int64_t i = threadIdx.x; i < bytes / 16; i += blockDim.x) to[i] = from[i];
      at += bytes;
    }
  }

  CCM_DEVICE void open_stream() {
    const int64_t* segment = a_.segments + static_cast<int64_t>(planes_.image * m_.groups + planes_.group) * 3;
    const int64_t offset = segment[0], size = segment[1];
    const bool inside = offset >= 0 && size >= 0 && offset <= a_.size && size <= a_.size - offset;
    const bool valid = inside && valid_lanes(segment[2]);
    decoder_.open(a_.data + (valid ? offset : 0), valid ? size : 0, valid ? static_cast<int32_t>(segment[2]) : 1);
  }

  // Returns when the base of `count` positions of the coding order is there; meanwhile the block computes it.
  CCM_DEVICE void await_base(int32_t first, int32_t count) {
    const int32_t last = chasing_layers(d_) - 1;
    if (last < 0) return;
    CCM_SHARED(task_words, int32_t[3]);
    for (;;) {
      bool there = true;
      for (int32_t p = threadIdx.x; p < count; p += blockDim.x) {
        const int32_t tile = tile_of(first + p);
        if (known_ && known_[tile]) continue;
        if (ld_relaxed(planes_.flag(last, tile)))
          ld_acquire(planes_.flag(last, tile));
        else
          there = false;
      }
      if (__syncthreads_and(there)) break;
      if (threadIdx.x == 0) {
        bool open = false;
        const DenseTask task = find_task(planes_, open);
        task_words[0] = task.layer;
        task_words[1] = task.i;
        task_words[2] = task.j;
      }
      __syncthreads();
      const DenseTask task{task_words[0], task_words[1], task_words[2]};
      __syncthreads();
      if (task.layer >= 0)
        run_task(planes_, task);
      else
        __nanosleep(100);
    }
    // The barrier handed on what some threads have acquired.
    for (int32_t p = threadIdx.x; known_ && p < count; p += blockDim.x) atomicExch(known_ + tile_of(first + p), 1);
  }

  // Tile of a position of the coding order.
  CCM_DEVICE int32_t tile_of(int32_t p) const {
    const uint32_t at = a_.order.positions[p];
    return static_cast<int32_t>((at >> 16) / kDenseRows * a_.order.tiles_j + (at & 0xffff) / kDenseColumns);
  }

  CCM_DEVICE void load_positions(int32_t first, int32_t count) {
    for (int32_t p = threadIdx.x; p < kChunk; p += blockDim.x)
      positions_[p] = a_.order.positions[first + (p < count ? p : 0)];  // the rest repeat the first
    __syncthreads();
  }
  CCM_DEVICE int32_t row_of(int32_t p) const { return static_cast<int32_t>(positions_[p] >> 16); }
  CCM_DEVICE int32_t column_of(int32_t p) const { return static_cast<int32_t>(positions_[p] & 0xffff); }

  // Positions first .. first + count of the coding order, all of step s. False when the image has failed.
  CCM_DEVICE bool chunk(int32_t s, int32_t first, int32_t count, const int32_t* stop) {
    CCM_SHARED(bad, int32_t);
    load_positions(first, count);
    if (count <= kTileN)
      network<1>(count);
    else if (count <= 2 * kTileN)
      network<2>(count);
    else
      network<4>(count);
    choose_rows(count);
    if (threadIdx.x == 0) bad = 0;
    __syncthreads();
    if (*stop) return false;
    if (a_.encoding) {
      if (!take_symbols(first, count)) bad = 1;
    } else if (threadIdx.x < 32) {
      decoder_.decode(m_, m_.y_rows, work_, count * d_.channels, unit());
      if (threadIdx.x == 0 && decoder_.bad() != kOk) bad = 1;
    }
    __syncthreads();
    if (bad) return false;
    const bool whole_step = a_.order.first[s + 1] - a_.order.first[s] <= kChunk;
    publish_latents(count, true, whole_step);
    if (!whole_step) __syncthreads();
    return true;
  }

  CCM_DEVICE int32_t unit() const { return m_.residual ? 1 << kMeanBits : 1; }

  // Parameters of up to NT * 8 positions: the network from the sum of contexts to means and scales.
  template <int NT>
  CCM_DEVICE void network(int32_t count) {
    const int32_t lane = threadIdx.x & 31, warps = blockDim.x / 32;
    const int32_t stride = a_.arena.feature_stride;
    const int32_t depth = layers();
    for (int32_t l = 0; l < depth; ++l) {
      const DeviceConv& c = layer(l);
      for (int32_t m_tile = threadIdx.x / 32; m_tile < c.m_tiles; m_tile += warps) {
        Accumulators<NT> acc;
        const uint8_t* at[NT];
        if (l == 0) {
#pragma unroll
          for (int n = 0; n < NT; ++n) {
            const int32_t p = n * kTileN + lane / 4;
            at[n] = context_.at(row_of(p), column_of(p)) + d_.plane_channel;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              const int32_t q = n * kTileN + (lane & 3) * 2 + k;
              const int32_t* base = base_.at(row_of(q), column_of(q)) + m_tile * kTileM + lane / 4;
              acc.v[n][k] = base[0];
              acc.v[n][2 + k] = base[8];
            }
          }
          product(m_, c, m_tile, at, context_.row_stride, context_.stride, weights_[0], acc);
        } else {
#pragma unroll
          for (int n = 0; n < NT; ++n)
            at[n] = features_ + ((l - 1) & 1) * a_.arena.feature_bytes + (n * kTileN + lane / 4) * stride;
          start_from_bias(m_, c, m_tile, acc);
          product_rows(c, m_tile, at, weights_[l], acc);
        }
        uint8_t* out = features_ + (l & 1) * a_.arena.feature_bytes;
        for_each_value(m_, c, m_tile, acc, [&](int32_t channel, int32_t p, const Rescale& rescale, int32_t value) {
          if (p >= count) return;
          if (c.output != kHead) {
            out[p * stride + channel] = rescale.byte(value, c.zero);
          } else if (channel < d_.channels) {
            mean_[p * d_.channels + channel] = static_cast<int16_t>(clamp(rescale.linear(value), -32768, 32767));
          } else {
            const int32_t code = clamp(rescale.linear(value), 0, m_.scale_codes - 1);
            scale_[p * d_.channels + channel - d_.channels] = m_.at<uint8_t>(m_.scale_table)[code];
          }
        });
      }
      __syncthreads();
    }
  }

  // body(p, c, p * channels + c) for every symbol of the chunk: warps take positions, lanes channels.
  template <class Body>
  CCM_DEVICE void for_each_symbol(int32_t count, Body body) const {
    for (int32_t p = threadIdx.x / 32; p < count; p += blockDim.x / 32)
      for (int32_t c = threadIdx.x & 31; c < d_.channels; c += 32) body(p, c, p * d_.channels + c);
  }

  CCM_DEVICE void choose_rows(int32_t count) {
    const DeviceRow* rows = m_.at<DeviceRow>(m_.y_rows.rows);
    for_each_symbol(count, [&](int32_t, int32_t, int32_t n) {
      const int32_t mean = mean_[n];
      const ScaleRow scale = scale_rows_[scale_[n]];
      const RowChoice choice = m_.residual ? RowChoice{mean, scale.first_row} : choose_row(scale, mean);
      const DeviceRow& row = rows[choice.row];
      work_.key[n] = row.key;
      work_.value[n] = row.lo_inside * unit() + choice.offset;
      work_.row[n] = static_cast<uint16_t>(choice.row);
    });
  }

  // Encoding: symbols as the caller gave them, and what they are coded as. False: one cannot be coded.
  CCM_DEVICE bool take_symbols(int32_t first, int32_t count) {
    const DeviceRow* rows = m_.at<DeviceRow>(m_.y_rows.rows);
    const int64_t image = static_cast<int64_t>(planes_.image) * a_.h * a_.w * m_.latent_channels;
    uint64_t* coded = a_.coded + image + static_cast<int64_t>(a_.h) * a_.w * d_.first_channel +
                      static_cast<int64_t>(first) * d_.channels;
    bool fine = true;
    for_each_symbol(count, [&](int32_t p, int32_t c, int32_t n) {
      const int64_t at =
          image + (static_cast<int64_t>(row_of(p)) * a_.w + column_of(p)) * m_.latent_channels + d_.first_channel + c;
      // Value of the row's symbol 0.
      const int32_t origin = work_.value[n] - rows[work_.row[n]].lo_inside * unit();
      int32_t symbol, v;
      if (m_.residual) {
        v = round_256(static_cast<const int32_t*>(a_.given)[at] - origin * (256 >> kMeanBits));
        symbol = v * unit() + origin;
      } else {
        symbol = static_cast<const int16_t*>(a_.given)[at];
        v = symbol - origin;
      }
      if (symbol < -32767 || symbol > 32767) fine = false;
      work_.symbol[n] = static_cast<int16_t>(symbol);
      coded[n] = static_cast<uint64_t>(work_.row[n]) << 32 | static_cast<uint32_t>(v);
    });
    return fine;
  }

  // Latents of a chunk to y, and (from y, if they are there already) into the context plane.
  CCM_DEVICE void publish_latents(int32_t count, bool to_y, bool to_context) {
    for_each_symbol(count, [&](int32_t p, int32_t c, int32_t n) {
      const int32_t i = row_of(p), j = column_of(p);
      int16_t* y = a_.y + ((static_cast<int64_t>(planes_.image) * a_.h + i) * a_.w + j) * m_.latent_channels +
                   d_.first_channel + c;
      int32_t seen = to_y ? work_.symbol[n] : *y;
      if (to_y) *y = static_cast<int16_t>(seen);
      if (!to_context) return;
      const int32_t channel = d_.plane_channel + c;
      if (m_.scaled_context)
        seen = requantize(seen, m_.at<int32_t>(m_.context_mult)[channel], m_.at<int32_t>(m_.context_shift)[channel]);
      context_.at(i, j)[channel] = static_cast<uint8_t>(clamp_context(seen) + 128);
    });
  }

  const LatentsArgs& a_;
  const DeviceModel& m_;
  const GroupPlanes planes_;
  const DeviceGroup& d_;
  const DevicePlane context_;
  const Base base_;
  uint8_t* features_;  // two buffers, one layer's inputs and outputs
  int16_t* mean_;
  uint8_t* scale_;
  Work work_;
  ScaleRow* scale_rows_;
  uint32_t* positions_;
  int32_t* known_;         // tiles of the base that are known to be there
  const uint4** weights_;  // of each layer, where they are kept
  WarpDecoder decoder_;
};

}  // namespace ccm
