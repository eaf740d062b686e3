// The list of a chunk's coded symbols, and where latents go.
#pragma once
#include "entropy/cuda/step_network.cuh"

namespace ccm {

template <bool kInShared>
class StepList : public StepNetwork<kInShared> {
 protected:
  using StepNetwork<kInShared>::StepNetwork;
  using StepNetwork<kInShared>::a_;
  using StepNetwork<kInShared>::m_;
  using StepNetwork<kInShared>::place_in_y;
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
    const int32_t lane = lane_here(), total = count * planes()->channels, words = (total + 31) / 32;
    const bool skipping = planes()->skip_scale >= 0;
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
    const int32_t lane = lane_here(), channels = planes()->channels;
    const bool residual = planes()->residual;
    const uint64_t per_channel = planes()->per_channel;
    RowChoice choice[kListed];
    unsigned mask[kListed];
    uint32_t key[kListed], mode[kListed], position[kListed];
    int32_t lo_mode[kListed], channel[kListed];
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      const int32_t k = min(first + u, end - 1), n = min(k * 32 + lane, total - 1);
      const auto p = static_cast<int32_t>(quotient(static_cast<uint32_t>(n), per_channel));
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
    const int32_t lane = lane_here(), skip_scale = planes()->skip_scale;
#pragma unroll 1
    for (int32_t k = team.warp(); k < words; k += team.warps()) {
      const int32_t n = k * 32 + lane;
      const unsigned mask = __ballot_sync(kWarp, n < total && scale()[n] > skip_scale);
      if (lane == 0) masks()[k] = mask;
    }
  }

  CCM_DEVICE Publisher publisher(bool to_context) const {
    Publisher to = planes()->publisher;
    if (!to_context) to.context = nullptr;
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
