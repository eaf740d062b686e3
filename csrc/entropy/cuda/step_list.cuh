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
  using StepNetwork<kInShared>::mean;
  using StepNetwork<kInShared>::planes;
  using StepNetwork<kInShared>::positions;
  using StepNetwork<kInShared>::scale;
  using StepNetwork<kInShared>::scale_rows;
  using StepNetwork<kInShared>::tables;
  using StepNetwork<kInShared>::unit;

  // What all symbols of a chunk have in common, and which words of 32 of them are this warp's: neighbouring ones, as
  // many as any other's, whatever positions they belong to. Looked up before the network, so that nobody waits for it
  // behind.
  struct ListPlan {
    uint64_t per_channel;
    int32_t channels, total, skip_scale, unit;
    int32_t first, end;
  };
  CCM_DEVICE ListPlan plan_list(const Team& team, int32_t count) const {
    const int32_t channels = planes()->channels, total = count * channels, words = (total + 31) / 32;
    const int32_t own = part_of(words, team.warps()), first = team.warp() * own;
    return {planes()->per_channel, channels, total, planes()->skip_scale, unit(), first, min(words, first + own)};
  }

  // Lists those symbols of a chunk's loaded positions that are coded, behind `carried` others; the rest are their
  // offsets, and lie at the end of the list, the last one first, until publish_skipped().
  struct Lengths {
    int32_t coded, skipped;  // carried ones are among the former
  };
  CCM_DEVICE Lengths list_symbols(const Team& team, const ListPlan& plan, const SymbolList& list, int32_t carried) {
    // Coded symbols before this warp's, and all. Every warp counts all of them: a barrier would take longer.
    int32_t before = min(plan.first * 32, plan.total), all = plan.total;
    if (plan.skip_scale >= 0) {
      before = all = 0;
#pragma unroll 1
      for (int32_t k = lane_here(); k * 32 < plan.total; k += 32) {
        const int32_t n = __popc(coded_among(k * 32, plan.total, plan.skip_scale));
        all += n;
        before += k < plan.first ? n : 0;
      }
      all = warp_sum(all), before = warp_sum(before);
    }
    int32_t at = carried + before;
#pragma unroll 1
    for (int32_t k = plan.first; k < plan.end; k += kListed) at = list_words(list, plan, k, at, carried);
    const int32_t listed = carried + all;
#pragma unroll 1
    for (int32_t i = team.thread(); i < kMoreSymbols; i += team.threads()) {
      list.symbols[listed + i] = {0, 0};  // of row 0: loaded ahead, and not looked at
      list.modes[listed + i] = kNever;
    }
    return {listed, plan.total - all};
  }

  // Those symbols of a chunk that are not coded: to y and, with `to_context`, into the context plane.
  CCM_DEVICE void publish_skipped(const Team& team, const SymbolList& list, int32_t skipped, bool to_context) const {
    const Publisher to = publisher(to_context);
    const int32_t last = planes()->list.places() - 1;
#pragma unroll 1
    for (int32_t k = last - team.thread(); k > last - skipped; k -= team.threads()) {
      const Symbol symbol = list.symbols[k + kMoreSymbols];
      to.publish(list.targets[k], key_row(symbol.key), symbol.value);
    }
  }

  // The same for kListed words from `first` on: what is loaded for all comes before the first store, since stores may
  // alias anything. `at`: where the list goes on; returned: behind them.
  static constexpr int kListed = 2;
  CCM_DEVICE int32_t list_words(const SymbolList& list, const ListPlan& plan, int32_t first, int32_t at,
                                int32_t carried) const {
    const int32_t lane = lane_here(), last = planes()->list.places() - 1;
    const RowWindow* const rows = tables().windows;
    RowChoice choice[kListed];
    unsigned mask[kListed];
    uint32_t key[kListed], mode[kListed], position[kListed];
    int32_t lo_mode[kListed], channel[kListed];
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      const int32_t n = min((first + u) * 32 + lane, plan.total - 1);
      const auto p = static_cast<int32_t>(quotient(static_cast<uint32_t>(n), plan.per_channel));
      const int32_t mu = mean()[n], index = scale()[n];
      const ScaleRow sigma = scale_rows()[index];
      mask[u] = __ballot_sync(kWarp, index > plan.skip_scale && first + u < plan.end && (first + u) * 32 + lane == n);
      position[u] = positions()[p];
      channel[u] = n - p * plan.channels;
      choice[u] = choose_row(sigma, mu);
      if (plan.unit > 1) choice[u].offset = mu;  // their rows have no fractions
      const RowWindow& row = rows[choice[u].row];
      key[u] = row.key, mode[u] = row.mode, lo_mode[u] = row.lo_mode;
    }
#pragma unroll
    for (int u = 0; u < kListed; ++u) {
      const int32_t n = (first + u) * 32 + lane, before = at + __popc(mask[u] & ((1u << lane) - 1));
      const bool coded = mask[u] >> lane & 1;
      // Of those that are not coded, n - (before - carried) come before this one.
      const int32_t place = coded ? before : last - n + before - carried, more = coded ? 0 : kMoreSymbols;
      const int32_t value = (coded ? lo_mode[u] * plan.unit : 0) + choice[u].offset;
      if (first + u < plan.end && n < plan.total) {
        list.symbols[place + more] = {key[u], value};
        list.modes[place + more] = symbol_fits(value) ? mode[u] : kNever;
        list.targets[place] = {position[u], static_cast<int16_t>(choice[u].offset), static_cast<uint16_t>(channel[u])};
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

  // Which of 32 symbols from `first` on are coded, of `total` of a chunk; bit n % 32, n = position * channels +
  // channel.
  CCM_DEVICE unsigned coded_among(int32_t first, int32_t total, int32_t skip_scale) const {
    const uint4* const at = reinterpret_cast<const uint4*>(scale() + first);
    const uint4 low = at[0], high = at[1];
    const unsigned four[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    // Scale indices are below kNumScales: those above skip_scale set their bytes' highest bits, and none reaches the
    // next byte. What lies behind the last symbol reaches only what lies behind it.
    static_assert(kNumScales <= 64, "indices and 127 - skip_scale fill a byte at most");
    const unsigned add = static_cast<unsigned>(127 - skip_scale) * 0x01010101u;
    unsigned mask = 0;
#pragma unroll
    for (int k = 7; k >= 0; --k) {
      // Bits 7, 15, 23, 31 to 28 .. 31; no two of the products' bits meet.
      const unsigned gathered = ((four[k] + add) & 0x80808080u) * 0x00204081u;
      mask = mask << 4 | gathered >> 28;
    }
    const int32_t left = total - first;
    return left < 32 ? mask & ~(kWarp << left) : mask;
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
