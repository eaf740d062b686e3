// The encoder of rANS streams. It runs backwards over the symbols and writes its words backwards.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "entropy/cpu/rans_cpu.h"
#include "format/escape.h"
#include "format/rans_tail.h"

namespace ccm {
namespace {

// What an escape codes after its entry.
uint32_t magnitude_of(const RowInfo& info, int32_t value) { return escape_magnitude(info.lo, info.count, value); }

inline bool in_row(const RowInfo& info, int32_t value) {
  return static_cast<uint32_t>(value - info.lo) < static_cast<uint32_t>(info.count - 1);
}

int32_t bit_length(uint32_t v) { return v ? 32 - __builtin_clz(v) : 0; }

class SequenceEncoder {
 public:
  // Steps come last to first. lanes: of the last one.
  SequenceEncoder(const Rows& tables, int32_t version, int32_t lanes)
      : tables_(tables), version_(version), lanes_(lanes), mask_(lanes - 1) {
    std::fill(state_, state_ + kMaxLanes, version_ == 2 ? kStateFirst : end_state(lanes_));
    tail_ = version_ == 2;
  }

  // A step's symbols, last round first, last phase first, last symbol first: the decoder's order backwards.
  void step(const Coded* symbols, int32_t n) { lanes_ == 1 ? rounds<1>(symbols, n) : rounds<0>(symbols, n); }

  // To be called between two steps: the one that comes next has so many lanes. Further ones start with 32 bits each
  // that others have given away, the oldest ones first, which then need not be written. False: there are too few.
  bool join(int32_t lanes) {
    if (lanes == lanes_) return true;
    if (tail_ || 2 * static_cast<size_t>(lanes - lanes_) > used_ - taken_) return false;
    for (int32_t i = lanes - 1; i >= lanes_; --i, taken_ += 2)
      state_[i] = kHandedOver | static_cast<uint64_t>(words_[taken_ + 1]) << 16 | words_[taken_];
    lanes_ = lanes;
    mask_ = lanes - 1;
    return true;
  }

  // To be called after that, with the number of symbols of the step that comes next.
  void turn_back(int32_t n) {
    if (version_ != 2) return;
    const int32_t by = next_turn(0, n, lanes_);
    turn_ = (turn_ - by) & mask_;
    std::rotate(state_, state_ + lanes_ - by, state_ + lanes_);
  }

  std::vector<uint8_t> finish() const {
    const std::vector<uint8_t> states = version_ == 2 ? states_of_2() : states_of_1();
    std::vector<uint8_t> out(states.size() + 2 * (used_ - taken_));
    uint8_t* to = std::copy(states.begin(), states.end(), out.data());
    for (size_t i = used_; i-- > taken_;) {
      *to++ = static_cast<uint8_t>(words_[i]);
      *to++ = static_cast<uint8_t>(words_[i] >> 8);
    }
    return out;
  }

 private:
  static void put_state(std::vector<uint8_t>& out, uint64_t x, int bytes) {
    for (int b = 0; b < bytes; ++b) out.push_back(static_cast<uint8_t>(x >> (8 * b)));
  }

  std::vector<uint8_t> states_of_1() const {
    std::vector<uint8_t> out;
    for (int32_t l = 0; l < lanes_; ++l) put_state(out, state_[l], kStateBytes);
    return out;
  }

  std::vector<uint8_t> states_of_2() const {
    const auto bytes = [this](int32_t l) { return state_[l] < kStateLong ? kStateBytes - 1 : kStateBytes; };
    std::vector<uint8_t> out;
    if (lanes_ == 1 && used_) {
      put_state(out, state_[0], bytes(0));
    } else if (lanes_ == 1) {
      for (uint64_t x = state_[0] == kStateFirst ? 0 : state_[0]; x; x >>= 8) out.push_back(static_cast<uint8_t>(x));
    } else {
      out.assign(flag_bytes(lanes_), 0);
      for (int32_t l = 0; l < lanes_; ++l)
        if (bytes(l) == kStateBytes) out[l / 8] = static_cast<uint8_t>(out[l / 8] | 1 << (l % 8));
      for (int32_t l = 0; l < lanes_; ++l) put_state(out, state_[l], bytes(l));
    }
    return out;
  }

  // kOne: of one lane; 0: of any number.
  template <int kOne>
  void rounds(const Coded* symbols, int32_t n) {
    const int32_t lanes = kOne ? kOne : lanes_;
    // Rounds between two looks at the room for their words, three a symbol.
    const int32_t chunk = static_cast<int32_t>(kChunk) / lanes * lanes;
    for (int32_t end = n; end > 0;) {
      const int32_t begin = (end - 1) / chunk * chunk;
      if (words_.size() < used_ + 3 * static_cast<size_t>(chunk)) words_.resize(2 * words_.size() + 3 * chunk);
      tail_ ? some_rounds<kOne, true>(symbols, begin, end) : some_rounds<kOne, false>(symbols, begin, end);
      end = begin;
    }
  }

  // kTail: there may not have been a word yet.
  template <int kOne, bool kTail>
  void some_rounds(const Coded* symbols, int32_t begin, int32_t end) {
    const int32_t lanes = kOne ? kOne : lanes_;
    for (int32_t first = (end - 1) / lanes * lanes; first >= begin; first -= lanes)
      round<kOne, kTail>(symbols + first, kOne ? kOne : std::min(lanes, end - first));
  }

  template <int kOne, bool kTail>
  inline void round(const Coded* symbols, int32_t count) {
    uint32_t entry[kMaxLanes];
    uint32_t escaped = 0;
    for (int32_t i = 0; i < count; ++i) {
      const RowInfo& info = tables_.info[symbols[i].row];
      const uint32_t escape = info.count - 1u, k = static_cast<uint32_t>(symbols[i].value - info.lo);
      escaped |= static_cast<uint32_t>(k >= escape) << i;
      entry[i] = tables_.entries[info.first + std::min(k, escape)];
    }
    if (CCM_UNLIKELY(escaped)) push_escapes<kTail>(symbols, escaped);
    for (int32_t i = count - 1; i >= 0; --i) push_any<kTail>(kOne ? 0 : i, entry[i] & kProbMask, entry[i] >> 16);
  }

  // i: the symbol's place in its round.
  void push(int32_t i, uint32_t start, uint32_t freq) {
    // Branchless: about every second symbol emits a word, and a mispredicted branch costs more than the store.
    uint64_t x = state_[i];
    const uint32_t due = rans_due(x, freq);
    words_[used_] = static_cast<uint16_t>(x);
    used_ += due;
    x >>= 16 * due;
    state_[i] = rans_extend(x, start, freq);
  }

  // push(), or in the tail what comes before the first word.
  template <bool kTail>
  void push_any(int32_t i, uint32_t start, uint32_t freq) {
    if (!kTail || !tail_) return push(i, start, freq);
    late_.push_back({start, freq, (turn_ + i) & mask_});
    if (rans_due(state_[i], freq))
      end_tail();
    else
      state_[i] = rans_extend(state_[i], start, freq);
  }
  template <bool kTail>
  void push_raw(int32_t i, uint32_t value, int32_t bits) {
    push_any<kTail>(i, value << (kProbBits - bits), 1u << (kProbBits - bits));
  }

  template <bool kTail>
  void push_escapes(const Coded* symbols, uint32_t escaped) {
    uint32_t escape[kMaxLanes];
    int32_t length[kMaxLanes];
    for (int32_t i = lanes_ - 1; i >= 0; --i) {
      if (!(escaped >> i & 1)) continue;
      escape[i] = magnitude_of(tables_.info[symbols[i].row], symbols[i].value);
      length[i] = bit_length(escape[i]);
      if (length[i] >= 2) push_raw<kTail>(i, escape[i] & ((1u << (length[i] - 1)) - 1), length[i] - 1);
    }
    for (int32_t i = lanes_ - 1; i >= 0; --i)
      if (escaped >> i & 1) push_raw<kTail>(i, static_cast<uint32_t>(length[i]), kEscapeLengthBits);
  }

  // One thing that a lane codes.
  struct Event {
    uint32_t start, freq;
    int32_t lane;
  };

  // How many late events go without a word from the states x of the lanes on, which become those behind them.
  size_t without_words(uint64_t* x) const {
    size_t i = 0;
    for (; i < late_.size() && !rans_due(x[late_[i].lane], late_[i].freq); ++i)
      x[late_[i].lane] = rans_extend(x[late_[i].lane], late_[i].start, late_[i].freq);
    return i;
  }

  // The first word is due, which is the last that a decoder takes. It refills every lane below kStateLow from now on,
  // so all have to be there: those that are not start higher. That can bring the first word forward, and then there
  // are more of them.
  void end_tail() {
    uint64_t first[kMaxLanes], x[kMaxLanes];
    std::fill(first, first + kMaxLanes, kStateFirst);
    size_t count = late_.size() - 1;
    for (bool raised = true; raised;) {
      raised = false;
      uint64_t least[kMaxLanes];
      std::fill(least, least + kMaxLanes, kStateLow);
      for (size_t i = count; i-- > 0;)
        least[late_[i].lane] = least_before(least[late_[i].lane], late_[i].start, late_[i].freq);
      for (int32_t l = 0; l < lanes_; ++l)
        for (; first[l] < least[l]; first[l] *= 2) raised = true;
      std::copy(first, first + kMaxLanes, x);
      count = without_words(x);
    }
    for (int32_t i = 0; i < lanes_; ++i) state_[i] = x[(turn_ + i) & mask_];
    tail_ = false;
    for (size_t i = count; i < late_.size(); ++i) {
      if (words_.size() <= used_ + 1) words_.resize(2 * words_.size() + 2);
      push((late_[i].lane - turn_) & mask_, late_[i].start, late_[i].freq);
    }
    if (words_.size() < used_ + 3 * kChunk) words_.resize(2 * used_ + 3 * kChunk);  // what is left of this chunk
    std::vector<Event>().swap(late_);
  }

  static constexpr size_t kChunk = 1024;  // symbols, at most, between two looks at the room for words

  const Rows& tables_;
  const int32_t version_;
  int32_t lanes_, mask_;
  int32_t turn_ = 0;  // in the tail: where the step's first lane, whose state comes first, stood at the end
  bool tail_;         // no word yet, and it matters
  uint64_t state_[kMaxLanes];
  std::vector<Event> late_;      // in the tail: all so far
  std::vector<uint16_t> words_;  // backwards; the first used_ of them, and room for one more
  size_t used_ = 0, taken_ = 0;  // taken_: by lanes that have joined, the oldest ones
};

// lanes: in each step. Nothing if they cannot join so.
std::optional<std::vector<uint8_t>> encode_sequence(const Rows& tables, const std::vector<Coded>& symbols,
                                                    const std::vector<int32_t>& steps, int32_t version,
                                                    const std::vector<int32_t>& lanes) {
  SequenceEncoder encoder(tables, version, lanes.back());
  size_t end = symbols.size();
  for (size_t s = steps.size(); s-- > 0;) {
    end -= steps[s];
    encoder.step(symbols.data() + end, steps[s]);
    if (!s) break;
    if (!encoder.join(lanes[s - 1])) return std::nullopt;
    encoder.turn_back(steps[s - 1]);
  }
  return encoder.finish();
}

void put_varint(std::vector<uint8_t>& out, size_t value) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<uint8_t>(value | 128));
  out.push_back(static_cast<uint8_t>(value));
}

// Nothing if this taper is not possible.
std::optional<std::vector<uint8_t>> encode_lanes(const Rows& tables, const std::vector<Coded>& symbols,
                                                 const std::vector<int32_t>& steps, StreamKind kind,
                                                 const std::vector<int32_t>& first_position) {
  const int32_t count = std::max(1, kind.lanes / kSequenceLanes), each = kind.lanes / count;
  const auto left = [&](size_t s) { return first_position.back() - first_position[s]; };
  if (kind.taper && !good_taper(each, kind.taper, left(0), left(steps.size() - 1))) return std::nullopt;
  std::vector<int32_t> lanes(std::max<size_t>(steps.size(), 1), each);
  for (size_t s = 0; s < steps.size() && kind.taper; ++s) lanes[s] = tapered_lanes(each, kind.taper, left(s));
  if (count == 1) return encode_sequence(tables, symbols, steps, kind.version, lanes);
  std::vector<uint8_t> lengths, bytes;
  for (int32_t q = 0; q < count; ++q) {
    std::vector<Coded> own;
    std::vector<int32_t> own_steps;
    size_t first = 0;
    for (const int32_t n : steps) {
      const size_t before = own.size();
      for (int32_t i = q * kSequenceLanes; i < n; i += count * kSequenceLanes)
        own.insert(own.end(), symbols.begin() + first + i, symbols.begin() + first + std::min(n, i + kSequenceLanes));
      own_steps.push_back(static_cast<int32_t>(own.size() - before));
      first += n;
    }
    // Without a taper, which streams of one sequence alone may have, there is always one.
    const std::vector<uint8_t> sequence = *encode_sequence(tables, own, own_steps, kind.version, lanes);
    if (q + 1 < count) put_varint(lengths, sequence.size());
    bytes.insert(bytes.end(), sequence.begin(), sequence.end());
  }
  lengths.insert(lengths.end(), bytes.begin(), bytes.end());
  return lengths;
}

// Ideal length in bytes.
double ideal_bytes(const Rows& tables, const std::vector<Coded>& symbols) {
  // The logarithm of a product instead of a sum of logarithms: 2^-16 or more each, so sixty stay above 2^-1022.
  constexpr size_t kChunk = 60;
  double bits = 0;
  for (size_t first = 0; first < symbols.size(); first += kChunk) {
    const size_t end = std::min(symbols.size(), first + kChunk);
    double p = 1;
    for (size_t i = first; i < end; ++i) {
      const RowInfo& info = tables.info[symbols[i].row];
      int32_t k = symbols[i].value - info.lo;
      if (CCM_UNLIKELY(!in_row(info, symbols[i].value))) {
        k = info.count - 1;
        bits += kEscapeLengthBits + std::max(0, bit_length(magnitude_of(info, symbols[i].value)) - 1);
      }
      p *= (tables.entries[info.first + k] >> 16) * (1.0 / 65536);
    }
    bits -= std::log2(p);
  }
  return bits / 8;
}

}  // namespace

std::vector<uint8_t> encode_stream(const Rows& tables, const std::vector<Coded>& symbols,
                                   const std::vector<int32_t>& steps, int32_t code, int32_t* code_used, LaneRule rule,
                                   const std::vector<int32_t>& first) {
  StreamKind kind = stream_kind(code);
  const bool has_steps = kind.version == 2 && first.size() > 2;
  int32_t most = kind.lanes;  // to try with a taper
  if (!kind.lanes) {
    // What one lane takes is mostly plain from the ideal length (it is within 0.01 % and a few bytes); coding with one
    // lane tells where it is not.
    const auto choose = [&](double bytes) {
      const int64_t whole = static_cast<int64_t>(bytes), coded = static_cast<int64_t>(symbols.size());
      kind.lanes = most = kind.version == 2 ? lanes_for_symbols(coded, whole, rule) : lanes_for_payload(whole);
      if (has_steps) most = lanes_for_symbols(coded, whole, rule, true);
      return std::pair(kind.lanes, most);
    };
    const double ideal = ideal_bytes(tables, symbols);
    if (choose(ideal) != choose(ideal * 1.001 + 16))
      choose(static_cast<double>(encode_lanes(tables, symbols, steps, {kind.version, 1}, first)->size()));
  }
  for (StreamKind tapered{2, most}; has_steps && may_taper(tapered.lanes) && tapered.lanes >= kind.lanes;
       tapered.lanes /= 2)
    for (tapered.taper = 1; tapered.taper < kTapers; ++tapered.taper)
      if (auto found = encode_lanes(tables, symbols, steps, tapered, first)) {
        *code_used = stream_code(tapered);
        return std::move(*found);
      }
  kind.taper = 0;
  *code_used = stream_code(kind);
  return *encode_lanes(tables, symbols, steps, kind, first);
}

}  // namespace ccm
