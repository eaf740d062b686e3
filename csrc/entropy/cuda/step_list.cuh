// The list of a chunk's coded symbols, and where latents go.
#pragma once
#include "entropy/cuda/step_network.cuh"

namespace ccm {

// Where latents of a group go: to y, with the place of what they stand for if that is wanted, and into the context
// plane. What does not depend on the latent is looked up once: stores may alias anything, and nothing else would be
// kept.
struct Publisher {
  int16_t* y;       // of the group's first channel
  int32_t* places;  // null: not wanted
  int32_t reach, w, channels;
  uint8_t* context;  // of the group's first channel; null: it is not shown yet
  int32_t row_stride, stride;
  const int32_t *mult, *shift;  // mult null: the context is not scaled

  CCM_DEVICE void publish(const Target& target, int32_t row, int32_t value) const {
    const auto position =
        static_cast<int32_t>((target.position >> 16) * static_cast<uint32_t>(w) + (target.position & 0xffff));
    int64_t at = static_cast<int64_t>(position) * channels + target.channel;
#if CCM_FAULT == 4
    ++at;
#endif
    y[at] = static_cast<int16_t>(value);
    if (places) places[at] = row * (2 * reach + 1) + clamp(value - target.offset, -reach, reach) + reach;
    if (context) show(target.position, target.channel, value);
  }

  CCM_DEVICE void show(uint32_t position, int32_t channel, int32_t value) const {
    if (mult) value = requantize(value, mult[channel], shift[channel]);
    const DevicePlane plane{context, row_stride, stride};
    plane.at(static_cast<int32_t>(position >> 16), static_cast<int32_t>(position & 0xffff))[channel] =
        static_cast<uint8_t>(clamp_context(value) + 128);
  }
};

template <bool kInShared>
class StepList : public StepNetwork<kInShared> {
 protected:
  using StepNetwork<kInShared>::StepNetwork;
  using StepNetwork<kInShared>::a_;
  using StepNetwork<kInShared>::m_;
  using StepNetwork<kInShared>::image_;
  using StepNetwork<kInShared>::d;
  using StepNetwork<kInShared>::masks;
  using StepNetwork<kInShared>::mean;
  using StepNetwork<kInShared>::planes;
  using StepNetwork<kInShared>::positions;
  using StepNetwork<kInShared>::scale;
  using StepNetwork<kInShared>::scale_rows;
  using StepNetwork<kInShared>::tables;
  using StepNetwork<kInShared>::unit;

  // Lists those symbols of `count` loaded positions that are coded, behind `carried` others; the rest are their
  // offsets, and are known now. Symbols are taken 32 at a time, whatever their positions are: a warp has neighbouring
  // words of 32, as many as any other. Returns how many the list holds.
  CCM_DEVICE int32_t list_symbols(const Team& team, const SymbolList& list, int32_t count, int32_t carried,
                                  bool to_context) {
    const RowWindow* const rows = tables().windows;
    const int32_t lane = lane_here(), total = count * d().channels, words = (total + 31) / 32;
    const bool skipping = m_.skip_scale >= 0;
    if (skipping) {
      mark_coded(team, total, words);
      team.sync();
    }
    const int32_t own = part_of(words, team.warps()), first = team.warp() * own, end = min(words, first + own);
    // Coded symbols before this warp's, and all.
    int32_t before = min(first * 32, total), all = total;
    if (skipping) {
      before = all = 0;
#pragma unroll 1
      for (int32_t k = lane; k < words; k += 32) {
        const int32_t n = __popc(masks()[k]);
        all += n;
        before += k < first ? n : 0;
      }
#pragma unroll
      for (int32_t by = 1; by < 32; by *= 2) {
        all += __shfl_xor_sync(kWarp, all, by);
        before += __shfl_xor_sync(kWarp, before, by);
      }
    }
    int32_t at = carried + before;
    const Publisher to = publisher(to_context);
#pragma unroll 1
    for (int32_t k = first; k < end; k += kListed) at = list_words(list, to, rows, k, end, total, at, skipping);
    const int32_t listed = carried + all;
#pragma unroll 1
    for (int32_t i = team.thread(); i < kMoreSymbols; i += team.threads()) {
      list.symbols[listed + i] = {rows[0].key, 0};
      list.modes[listed + i] = kNever;
    }
    return listed;
  }

  // The same for kListed words from `first` on, of those before `end`: what is loaded for all comes before the first
  // store. `at`: where the list goes on; returned: behind them.
  static constexpr int kListed = 2;
  CCM_DEVICE int32_t list_words(const SymbolList& list, const Publisher& to, const RowWindow* rows, int32_t first,
                                int32_t end, int32_t total, int32_t at, bool skipping) const {
    const int32_t lane = lane_here(), channels = d().channels;
    const bool residual = m_.residual;
    RowChoice choice[kListed];
    unsigned mask[kListed];
    uint32_t key[kListed], mode[kListed], position[kListed];
    int32_t lo_mode[kListed], channel[kListed];
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      const int32_t k = min(first + u, end - 1), n = min(k * 32 + lane, total - 1);
      const auto p = static_cast<int32_t>(quotient(static_cast<uint32_t>(n), d().per_channel));
      const int32_t mu = mean()[n];
      const ScaleRow sigma = scale_rows()[scale()[n]];
      mask[u] = skipping ? masks()[k] : kWarp;
      position[u] = positions()[p];
      channel[u] = n - p * channels;
      choice[u] = residual ? RowChoice{mu, sigma.first_row} : choose_row(sigma, mu);
      const RowWindow& row = rows[choice[u].row];
      key[u] = row.key, mode[u] = row.mode, lo_mode[u] = row.lo_mode;
    }
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      if (first + u < end && (first + u) * 32 + lane < total) {
        const Target target{position[u], static_cast<int16_t>(choice[u].offset), static_cast<uint16_t>(channel[u])};
        if (mask[u] >> lane & 1) {
          const int32_t place = at + __popc(mask[u] & ((1u << lane) - 1));
          const int32_t value = lo_mode[u] * unit() + choice[u].offset;
          list.symbols[place] = {key[u], value};
          list.modes[place] = symbol_fits(value) ? mode[u] : kNever;
          list.targets[place] = target;
        } else {
          to.publish(target, choice[u].row, choice[u].offset);
        }
      }
      at += __popc(mask[u]);
    }
    return at;
  }

  // n / parts, rounded up: of few parts, without a division.
  CCM_DEVICE static int32_t part_of(int32_t n, int32_t parts) {
    int32_t each = 0;
#pragma unroll 1
    for (int32_t left = n; left > 0; left -= parts) ++each;
    return each;
  }

  // Which symbols of a chunk are coded: bit n % 32 of word n / 32, n = position * channels + channel.
  CCM_DEVICE void mark_coded(const Team& team, int32_t total, int32_t words) const {
    const int32_t lane = lane_here();
#pragma unroll 1
    for (int32_t k = team.warp(); k < words; k += team.warps()) {
      const int32_t n = k * 32 + lane;
      const unsigned mask = __ballot_sync(kWarp, n < total && scale()[n] > m_.skip_scale);
      if (lane == 0) masks()[k] = mask;
    }
  }

  // In y, and in planes of its shape.
  CCM_DEVICE int64_t place_in_y(uint32_t position, int32_t channel) const {
    const int64_t row = static_cast<int64_t>(image_) * a_.h + (position >> 16);
    return (row * a_.w + (position & 0xffff)) * m_.latent_channels + d().first_channel + channel;
  }

  CCM_DEVICE Publisher publisher(bool to_context) const {
    const DevicePlane context = planes()->context;
    const int64_t first = place_in_y(0, 0);
    Publisher to{};
    to.y = a_.y + first;
    to.places = a_.places ? a_.places + first : nullptr;
    to.reach = a_.reach;
    to.w = a_.w;
    to.channels = m_.latent_channels;
    to.context = to_context ? context.data + d().plane_channel : nullptr;
    to.row_stride = context.row_stride;
    to.stride = context.stride;
    to.mult = m_.scaled_context ? m_.template at<int32_t>(m_.context_mult) + d().plane_channel : nullptr;
    to.shift = m_.template at<int32_t>(m_.context_shift) + d().plane_channel;
    return to;
  }

  // Latents of loaded positions from y into the context plane.
  CCM_DEVICE void show_latents(int32_t count) const {
    const Publisher to = publisher(true);
#pragma unroll 1
    for (int32_t p = threadIdx.x / 32; p < count; p += blockDim.x / 32)
      for (int32_t c = threadIdx.x & 31; c < d().channels; c += 32)
        to.show(positions()[p], c, a_.y[place_in_y(positions()[p], c)]);
  }
};

}  // namespace ccm
