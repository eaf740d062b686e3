// A warp decodes one sequence of words of a rANS stream (FORMAT.md, section 5; docs/format2.md).
//
// One thread a lane. It holds the sixteen entries of its next symbol's window, loaded a round before the state that
// will look among them is known. What remains in the serial chain of a lane: the search (halving, in registers), one
// multiplication, and for lanes that need a word a ballot, which tells its place in the common stream, and a load from
// shared memory. Where nearly all symbols are their rows' most probable ones and take no word, eight rounds are tried
// with those alone, and kept as far as that was right.
#pragma once
#include "base/platform.h"
#include "entropy/cuda/model_cuda.h"
#include "entropy/cuda/sequence.cuh"
#include "format/escape.h"
#include "format/symbol.h"

namespace ccm {

// A symbol to decode, prepared by all threads of the block.
struct alignas(8) Symbol {
  uint32_t key;   // row_key()
  int32_t value;  // at first of the row's most probable entry, one entry further is `unit` more; then the symbol's
};

// In place of a row's most probable entry: no slot lies in it.
constexpr uint32_t kNever = 0xffff0000u;

// A set of rows as decoders read it: `windows`, with neighbours behind them, may be a copy in shared memory.
struct RowTables {
  const DeviceModel& m;
  const DeviceRows& rows;
  const RowWindow* windows;
  const RowNeighbours* neighbours;

  CCM_DEVICE RowTables(const DeviceModel& model, const DeviceRows& r) : m(model), rows(r) {
    lie_at(model.at<RowWindow>(r.windows));
  }
  CCM_DEVICE void lie_at(const RowWindow* at) {
    windows = at;
    neighbours = reinterpret_cast<const RowNeighbours*>(at + rows.count);
  }
  CCM_DEVICE const DeviceRow& row(int32_t i) const { return m.at<DeviceRow>(rows.rows)[i]; }
  CCM_DEVICE uint32_t entry(uint32_t i) const { return m.at<uint32_t>(rows.entries)[i]; }
};

class WarpDecoder : public WarpSequence {
 public:
  // n symbols of one step, from the start of a round on, `sequences` blocks of 32 between two rounds if there are
  // several; kMoreSymbols with valid keys lie behind them, and as many `modes`, the most probable entry of each symbol
  // or kNever. Not to be called again once bad().
  CCM_DEVICE void decode(const RowTables& rows, Symbol* symbols, const uint32_t* modes, int32_t n, int32_t unit,
                         uint16_t* ring) {
    const int32_t before = next_, tried = quiet_ ? try_modes(rows, symbols, modes, n, unit, ring) : 0;
    if (tried < n) rounds(rows, symbols + tried, n - tried, unit, ring);
    quiet_ = sequences_ == 1 && (next_ - before) * lanes_ * kQuietRounds < n;
  }

 private:
  // Rounds that are tried at once; rounds a word from which on that pays.
  static constexpr int32_t kTried = 8, kQuietRounds = 5;
  static_assert(kTried * kSequenceLanes <= kMoreSymbols, "what is tried next is loaded ahead");

  // What a thread has found of its lane's symbol.
  struct Found {
    uint32_t start, less;  // the entry's first slot, its frequency - 1
    int32_t place;         // its number, counted from the window's first entry
  };

  CCM_DEVICE static Found search_window(const uint32_t (&entry)[kWindow], uint32_t slot) {
    Found found{0, 0, 0};
    const uint32_t last = search<kWindow>(entry, slot << 16 | (kProbMask - 1), found.place);
    found.start = last >> 16, found.less = last & kProbMask;
    return found;
  }

  // The last of E entries, in ascending order, at or below the limit, else the first; its number is added to k.
  template <int E>
  CCM_DEVICE static uint32_t search(const uint32_t (&entry)[E], uint32_t limit, int32_t& k) {
    if constexpr (E == 1) {
      return entry[0];
    } else {
      const bool upper = entry[E / 2] <= limit;
      uint32_t half[E / 2];
#pragma unroll
      for (int e = 0; e < E / 2; ++e) half[e] = upper ? entry[E / 2 + e] : entry[e];
      k += upper ? E / 2 : 0;
      return search<E / 2>(half, limit, k);
    }
  }

  CCM_DEVICE static void load_window(const RowTables& rows, uint32_t key, uint32_t (&to)[kWindow]) {
    const uint4* from = reinterpret_cast<const uint4*>(rows.windows[key_row(key)].entry);
#pragma unroll
    for (int e = 0; e < kWindow; e += 4) {
      const uint4 four = from[e / 4];
      to[e] = four.x, to[e + 1] = four.y, to[e + 2] = four.z, to[e + 3] = four.w;
    }
  }

  // Of a thread: its lane, and the lanes before that. `to`: where its symbol's value goes, `step` symbols further each
  // round; of threads that repeat others' lanes a place that nobody reads, because a branch would cost more.
  struct Place {
    int32_t lane, step;
    unsigned before;
    Symbol* to;
  };
  CCM_DEVICE Place place_here(Symbol* symbols, uint16_t* ring) const {
    const int32_t lane = lane_of_stream();
    const bool writes = lane_here() == lane;
    Symbol* const spare = reinterpret_cast<Symbol*>(ring + kWordRing + kRingAgain) + lane_here();
    return {lane, writes ? lanes_ * sequences_ : 0, (1u << lane) - 1, writes ? symbols + lane : spare};
  }

  CCM_DEVICE static int32_t value_at(const Symbol& symbol, int32_t place, int32_t unit) {
    return symbol.value + (place - key_mode_place(symbol.key)) * unit;
  }

  // In place of a state's low half: a word that the lane has asked for. It comes as the last of a round, and nobody
  // waits for it before the next search.
  static constexpr uint32_t kWanted = kProbMask + 1;
  CCM_DEVICE void settle(uint32_t word) { low_ = low_ == kWanted ? word : low_; }

  // A round whose symbols are found, without an escape, and whose words are there. False: it is not one, nothing has
  // happened yet. `partial`: only lanes for which `active` holds have a symbol. `escape`: the escape's number, as the
  // place of what is found. A `word` that
  // is taken has to be settled before the next round.
  template <bool partial>
  CCM_DEVICE bool common_round(const Place& place, const Symbol& symbol, const Found& found, int32_t escape,
                               bool active, int32_t unit, const volatile uint16_t* ring, uint32_t& word) {
    // A round's words lie one behind another: see kRingAgain.
    const volatile uint16_t* const words = ring + (next_ & (kWordRing - 1));
    const uint64_t x = static_cast<uint64_t>(found.less) * high_ + (high_ + low_ - found.start);
    const uint32_t above = static_cast<uint32_t>(x >> kProbBits);
    const bool takes = above < floor_ && (!partial || active);
    const unsigned taking = __ballot_sync(kWarp, takes);
    // Volatile: not to be put off until it is certain that somebody takes one.
    word = words[__popc(taking & place.before)];
    const int32_t read = next_ + __popc(taking & first_threads()), value = value_at(symbol, found.place, unit);
    // Outside of the window; an escape; a value that does not fit (whole latents do: they are their row's small symbols
    // and a mean of 16 bits / 16).
    const bool odd = (low_ - found.start > found.less) | (found.place == escape) | ((unit > 1) & !symbol_fits(value));
    if (__any_sync(kWarp, odd && (!partial || active)) || read > limit_) return false;
    if (!partial || active) {
      high_ = takes ? static_cast<uint32_t>(x) : above;
      low_ = takes ? kWanted : static_cast<uint32_t>(x) & kProbMask;
      place.to->value = value;
    }
    next_ = read;
    return true;
  }

  // Any round: like a common one, once what lies outside of its window is found and words are there; else a rare one.
  CCM_DEVICE void slow_round(const RowTables& rows, const Place& place, const Symbol& symbol, Found found, bool active,
                             int32_t unit, uint16_t* ring) {
    const uint32_t outside = rows.windows[key_row(symbol.key)].outside;
    look_outside(rows, symbol, outside, active, found);
    if (next_ + 32 > staged_ && staged_ < total_) stage_words(ring);
    const auto escape = static_cast<int32_t>(outside >> 16);
    uint32_t word = 0;
    if (!common_round<true>(place, symbol, found, escape, active, unit, ring, word))
      rare_round(rows, place.to, symbol, found, escape, active, unit, ring);
    settle(word);
  }

  // Finds the symbols that lie outside of their windows: the whole warp looks at the neighbours, one lane's after
  // another.
  CCM_DEVICE void look_outside(const RowTables& rows, const Symbol& symbol, uint32_t outside, bool active,
                               Found& found) const {
    unsigned who = __ballot_sync(kWarp, active && low_ - found.start > found.less) & first_threads();
    const uint32_t wanted = low_ << 16 | (symbol.key & kProbMask);
    while (who) {
      const int32_t owner = highest_bit(who);
      who ^= 1u << owner;
      const uint32_t slot_and_row = __shfl_sync(kWarp, wanted, owner), slot = slot_and_row >> 16;
      const uint32_t beside = __shfl_sync(kWarp, outside, owner) & 0xffff;
      uint32_t entry = beside ? rows.neighbours[beside - 1].entry[lane_here()] : 0;
      const unsigned hit = __ballot_sync(kWarp, slot - (entry >> 16) < (entry & kProbMask));
      int32_t place = 0;
      if (hit) {
        const int32_t k = highest_bit(hit);
        entry = __shfl_sync(kWarp, entry, k);
        place = neighbour_place(k);
      } else {
        entry = look_far(rows, rows.row(static_cast<int32_t>(slot_and_row & 0xffff)), slot, place);
      }
      if (lane_of_stream() == owner) found = {entry >> 16, (entry & kProbMask) - 1, place};
    }
  }

  // A row knows with which entry a slot's part of the range begins; the warp looks at 32 entries from there on.
  CCM_DEVICE static uint32_t look_far(const RowTables& rows, const DeviceRow& row, uint32_t slot, int32_t& place) {
    const uint32_t stop = row.first + static_cast<uint32_t>(row.count);
    uint32_t first = row.parts[slot >> (kProbBits - kPartBits)], entry = 0;
    unsigned below = 0;
    for (;; first += 31) {  // the last one of all that start at or below the slot is looked at again
      const uint32_t at = first + static_cast<uint32_t>(lane_here());
      const bool there = at < stop;
      entry = there ? rows.entry(at) : 0;
      below = __ballot_sync(kWarp, there && entry >> 16 <= slot);
      if (below != kWarp) break;
    }
    const int32_t k = highest_bit(below);
    place = static_cast<int32_t>(first - row.first) + k - row.window;
    return __shfl_sync(kWarp, entry, k);
  }

  // A round with escapes, of no more words, or of damage.
  CCM_DEVICE void rare_round(const RowTables& rows, Symbol* to, const Symbol& symbol, const Found& found,
                             int32_t escape, bool active, int32_t unit, uint16_t* ring) {
    const bool escaped = active && found.place == escape;
    bool damaged = false;
    if (active) {
      advance(found.start, found.less + 1);
      const int32_t value = value_at(symbol, found.place, unit);
      damaged = !escaped && !symbol_fits(value);
      if (!escaped) to->value = value;
    }
    refill(active, ring);
    if (__any_sync(kWarp, escaped)) {
      const DeviceRow& whole = rows.row(key_row(symbol.key));
      int32_t v = 0;
      damaged |= decode_escapes(whole, escaped, v, ring);
      const int32_t value = symbol.value + (v - rows.windows[key_row(symbol.key)].lo_mode) * unit;
      damaged |= escaped && !symbol_fits(value);
      if (escaped) to->value = value;
    }
    if (__any_sync(kWarp, damaged) && bad_ == kOk) bad_ = kDamaged;
  }

  // Phases two and three of a round; returns whether this thread met an impossible escape.
  CCM_DEVICE bool decode_escapes(const DeviceRow& row, bool escaped, int32_t& value, uint16_t* ring) {
    uint32_t length = raw_bits(escaped, kEscapeLengthBits, ring);
    const bool damaged = escaped && length > kEscapeMaxLength;
    if (!escaped || damaged) length = 0;
    const bool more = length >= 2;
    const int32_t bits = more ? static_cast<int32_t>(length) - 1 : 1;
    const uint32_t low = raw_bits(more, bits, ring);
    value = escape_value(row.lo, row.count, more ? 1u << bits | low : length);
    return damaged;
  }

  CCM_DEVICE uint32_t raw_bits(bool using_it, int32_t bits, uint16_t* ring) {
    const uint32_t value = low_ >> (kProbBits - bits);
    if (using_it) advance(value << (kProbBits - bits), 1u << (kProbBits - bits));
    refill(using_it, ring);
    return value;
  }

  CCM_DEVICE void rounds(const RowTables& rows, Symbol* symbols, int32_t n, int32_t unit, uint16_t* ring) {
    Place place = place_here(symbols, ring);
    const int32_t further = lanes_ * sequences_;  // from a round's symbols to the next one's
    const Symbol* at = symbols + place.lane;
    int32_t left = n;
    Symbol even = at[0], odd = at[further];
    uint32_t even_entry[kWindow], odd_entry[kWindow];
    load_window(rows, even.key, even_entry);
    // Loaded early, off the chain of states: symbols two rounds ahead, windows one. Two sets of each change places: a
    // copy from one to the other would wait for what the same round has loaded.
    uint32_t word = 0;
    const auto round = [&](Symbol& symbol, const uint32_t (&entry)[kWindow], const Symbol& next,
                           uint32_t (&entry_of_next)[kWindow]) {
      settle(word);
      const Found found = search_window(entry, low_);
      load_window(rows, next.key, entry_of_next);
      if (CCM_UNLIKELY(
              !common_round<false>(place, symbol, found, key_escape_place(symbol.key), true, unit, ring, word)))
        slow_round(rows, place, symbol, found, true, unit, ring);
      symbol = at[2 * further];
      at += further;
      place.to += place.step;
    };
#pragma unroll 1
    for (; left >= 2 * lanes_; left -= 2 * lanes_) {
#if CCM_FAULT != 3
      __syncwarp();  // threads of the same lane have all read what one of them overwrites: two rounds ago or earlier
#endif
      round(even, even_entry, odd, odd_entry);
      round(odd, odd_entry, even, even_entry);
    }
    settle(word);
#pragma unroll 1
    for (; left > 0; left -= lanes_) {
      const bool active = place.lane < left;
      const Symbol symbol = *at;
      load_window(rows, symbol.key, even_entry);
      __syncwarp();
      const Found found = search_window(even_entry, low_);
      if (!common_round<true>(place, symbol, found, key_escape_place(symbol.key), active, unit, ring, word))
        slow_round(rows, place, symbol, found, active, unit, ring);
      settle(word);
      at += further;
      place.to += place.step;
    }
  }

  // Rounds of most probable symbols that take no words, kTried at once, and what comes between them; symbols hold these
  // values already. As long as so many rounds are left; returns how many symbols that were. Of one sequence.
  CCM_DEVICE int32_t try_modes(const RowTables& rows, Symbol* symbols, const uint32_t* modes, int32_t n, int32_t unit,
                               uint16_t* ring) {
    Place place = place_here(symbols, ring);
    const int32_t batch = kTried * lanes_;
    const auto load = [&](int32_t from, uint32_t (&to)[kTried]) {
#pragma unroll
      for (int k = 0; k < kTried; ++k) to[k] = modes[from + k * lanes_ + place.lane];
    };
    uint32_t mode[kTried];
    load(0, mode);
    int32_t done = 0;
#pragma unroll 1
    while (n - done >= batch) {
      uint32_t later[kTried], high[kTried + 1], low[kTried + 1];
      load(done + batch, later);
      high[0] = high_, low[0] = low_;
      unsigned wrong = 0;
#pragma unroll
      for (int k = 0; k < kTried; ++k) {
        const uint32_t start = mode[k] >> 16, freq = mode[k] & kProbMask, inside = low[k] - start;
        const uint64_t x = static_cast<uint64_t>(freq) * high[k] + inside;
        high[k + 1] = static_cast<uint32_t>(x >> kProbBits);
        low[k + 1] = static_cast<uint32_t>(x) & kProbMask;
        wrong |= static_cast<unsigned>((inside >= freq) | (high[k + 1] < floor_)) << k;
      }
      if (!__any_sync(kWarp, wrong)) {
        high_ = high[kTried], low_ = low[kTried];
        done += batch;
        place.to += kTried * place.step;
#pragma unroll
        for (int k = 0; k < kTried; ++k) mode[k] = later[k];
        continue;
      }
      bool right = true;
      int32_t rounds_right = 0;
#pragma unroll
      for (int k = 0; k + 1 < kTried; ++k) {
        right = right && !__any_sync(kWarp, wrong >> k & 1);
        high_ = right ? high[k + 1] : high_;
        low_ = right ? low[k + 1] : low_;
        rounds_right += right;
      }
      done += rounds_right * lanes_;
      place.to += rounds_right * place.step;
      const Symbol symbol = symbols[done + place.lane];
      uint32_t entry[kWindow];
      load_window(rows, symbol.key, entry);
      done += lanes_;
      load(done, mode);
      __syncwarp();  // threads of the same lane have read what one of them overwrites
      const Found found = search_window(entry, low_);
      uint32_t word = 0;
      if (CCM_UNLIKELY(
              !common_round<false>(place, symbol, found, key_escape_place(symbol.key), true, unit, ring, word)))
        slow_round(rows, place, symbol, found, true, unit, ring);
      settle(word);
      place.to += place.step;
    }
    return done;
  }
};

}  // namespace ccm
