// One sequence of words of a rANS stream in the hands of a warp (FORMAT.md, section 5): its lanes' states, and its
// words on their way from global to shared memory.
//
// Each thread keeps the state of lane `thread mod lanes`: threads beyond the sequence's lanes repeat others.
#pragma once
#include "base/status.h"
#include "entropy/cuda/device.h"
#include "entropy/cuda/latents.h"
#include "format/rans.h"

namespace ccm {

constexpr unsigned kWarp = 0xffffffffu;

// Sequences of a stream.
CCM_DEVICE int32_t sequences_of(int64_t code) {
  const int32_t lanes = stream_kind(code).lanes;
  return lanes <= kSequenceLanes ? 1 : lanes / kSequenceLanes;
}

// Symbols of sequence q among n that are dealt to `count` sequences in blocks of 32; count is a power of two.
CCM_DEVICE int32_t symbols_of_sequence(int32_t n, int32_t count, int32_t q) {
  const int32_t blocks = n / kSequenceLanes, turns = blocks >> highest_bit(count), last = blocks & (count - 1);
  return (turns + (q < last)) * kSequenceLanes + (q == last ? n % kSequenceLanes : 0);
}

class WarpSequence {
 public:
  // Every thread of the warp calls everything. Sequence q of the stream, which lies in `size` bytes from `data` on.
  CCM_DEVICE void open(const uint8_t* data, int64_t size, int64_t code, int32_t q, uint16_t* ring) {
    const StreamKind kind = stream_kind(code);
    sequences_ = sequences_of(code);
    lanes_ = kind.lanes >> highest_bit(sequences_);
    least_ = kind.version == 2 ? 0 : static_cast<uint32_t>(end_state(lanes_));
    words_ = data;
    if (size >> 1 > kMostWords)
      bad_ = kDamaged;
    else if (kind.version == 2)
      open_sequence(data, size, q);
    else
      open_version_1(data, size);
    taper_ = static_cast<uint8_t>(kind.taper);
    fetch_words(ring);
    stage_words(ring);
    look_for_end();
  }

  // Before the first step of a stream with so many positions, if it may have a taper.
  CCM_DEVICE void begin(int32_t positions) {
    if (tapered_lanes(lanes_, taper_, positions) != lanes_ && bad_ == kOk) bad_ = kDamaged;
  }

  // Between two steps, behind end_step(): `left` positions, more than none, are not decoded yet. Where lanes become
  // fewer, those behind the ones that are left hand over what they hold.
  CCM_DEVICE void retire(int32_t left, uint16_t* ring) {
    const int32_t lanes = tapered_lanes(lanes_, taper_, left);
    if (lanes == lanes_) return;
    const int32_t lane = lane_here();
    const bool leaves = lane >= lanes && lane < lanes_;
    if (__any_sync(kWarp, leaves && high_ >> (32 - kProbBits) != kHandedOver >> 32) && bad_ == kOk) bad_ = kDamaged;
    const int32_t at = total_ + 2 * (lane - lanes);
    __syncwarp();  // what is overwritten has been read
    if (leaves)
      for (int k = 0; k < 2; ++k) {
        const auto word = static_cast<uint16_t>(k ? low_ : high_);
        handed_over(ring)[at + k - own_] = word;
        if (at + k < staged_) put_word(ring, at + k, word);
      }
    __syncwarp();
    total_ += 2 * (lanes_ - lanes);
    high_ = __shfl_sync(kWarp, high_, lane & (lanes - 1));
    low_ = __shfl_sync(kWarp, low_, lane & (lanes - 1));
    lanes_ = lanes;
    limit_ = min(total_, staged_);
    fetch_words(ring);
    look_for_end();
  }

  // After the last symbol of a step, of which the sequence had n.
  CCM_DEVICE void end_step(int32_t n) {
    if (least_ != 0) return;
    const int32_t from = (lane_of_stream() + next_turn(0, n, lanes_)) & (lanes_ - 1);
    high_ = __shfl_sync(kWarp, high_, from);
    low_ = __shfl_sync(kWarp, low_, from);
  }

  CCM_DEVICE Status bad() const { return bad_; }

  // After the last symbol.
  CCM_DEVICE Status finish() const {
    const uint64_t x = static_cast<uint64_t>(high_) << kProbBits | low_;
    const bool ended = __all_sync(kWarp, least_ == 0 ? valid_end(x) : x == least_);
    return bad_ != kOk ? bad_ : (ended && next_ == total_ ? kOk : kDamaged);
  }

 protected:
  static constexpr int64_t kMostWords = 0x7fffff00;  // more than a plane's symbols need; what is read ahead lies behind

  CCM_DEVICE void set_state(uint64_t x) {
    high_ = static_cast<uint32_t>(x >> kProbBits);
    low_ = static_cast<uint32_t>(x) & kProbMask;
  }
  CCM_DEVICE void advance(uint32_t start, uint32_t freq) {
    set_state(static_cast<uint64_t>(freq) * high_ + low_ - start);
  }
  // Of this thread.
  CCM_DEVICE int32_t lane_of_stream() const { return lane_here() & (lanes_ - 1); }
  // The threads whose lanes are not repeated.
  CCM_DEVICE unsigned first_threads() const { return kWarp >> (32 - lanes_); }

  // Lanes for which `using_it` holds take a word if they need one and there is one, in the order of lanes.
  CCM_DEVICE void refill(bool using_it, uint16_t* ring) {
    if (next_ + 32 > staged_ && staged_ < total_) stage_words(ring);
    const bool needs = using_it && high_ < kLeastHigh;
    const unsigned needing = __ballot_sync(kWarp, needs) & first_threads();
    const int32_t before = __popc(needing & ((1u << lane_of_stream()) - 1));
    const bool there = before < total_ - next_, truncated = needs && !there && high_ < least_ >> kProbBits;
    // Where words are missing, anything that keeps the state from reaching zero.
    if ((needs && there) || truncated) high_ = high_ << kProbBits | low_;
    if (needs && there) low_ = ring[(next_ + before) & (kWordRing - 1)];
    if (truncated) low_ = 0;
    if (__any_sync(kWarp, truncated) && bad_ == kOk) bad_ = kTruncated;
    next_ = min(total_, next_ + __popc(needing));
    look_for_end();
  }

  // Words that have been fetched enter the ring; those to come behind them are asked for, so that nobody waits.
  CCM_DEVICE void stage_words(uint16_t* ring) {
    const int32_t at = staged_ + lane_here();
    __syncwarp();  // what they replace has been read
    put_word(ring, at, static_cast<uint16_t>(far_[0] | far_[1] << 8));
    put_word(ring, at + 32, static_cast<uint16_t>(far_[2] | far_[3] << 8));
    __syncwarp();
    staged_ += kWordsAhead;
    limit_ = min(total_, staged_);
    fetch_words(ring);
  }

  // Where no words are left, lanes go on without.
  CCM_DEVICE void look_for_end() { floor_ = next_ < total_ ? kLeastHigh : least_ >> kProbBits; }

  // x >> 16 from which on a state takes no word.
  static constexpr uint32_t kLeastHigh = static_cast<uint32_t>(kStateLow >> kProbBits);

  uint32_t high_ = static_cast<uint32_t>(kStateLow >> kProbBits), low_ = 0;  // x >> 16 and x mod 2^16
  uint32_t floor_ = kLeastHigh;                                              // high_ below this asks for a word
  int32_t next_ = 0;                                                         // words read
  int32_t limit_ = 0;   // what next_ may become before new words are wanted, or there are none
  int32_t total_ = 0;   // words, those that lanes have handed over among them
  int32_t staged_ = 0;  // words that have been in the ring
  int32_t lanes_ = 1, sequences_ = 1;
  bool quiet_ = false;  // few rounds take a word
  uint8_t taper_ = 0;
  Status bad_ = kOk;

 private:
  CCM_DEVICE static uint64_t read_state(const uint8_t* data, int64_t bytes) {
    uint64_t x = 0;
    for (int64_t b = 0; b < bytes; ++b) x |= static_cast<uint64_t>(data[b]) << (8 * b);
    return x;
  }

  CCM_DEVICE void words_from(const uint8_t* data, int64_t size) {
    words_ = data;
    total_ = own_ = static_cast<int32_t>(size / 2);
    if (size % 2) bad_ = kDamaged;
  }

  // Two words for each thread from staged_ on, each byte for itself: nothing waits for them until they are put
  // together.
  CCM_DEVICE void fetch_words(uint16_t* ring) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int64_t i = static_cast<int64_t>(staged_) + lane_here() + 32 * k;
      far_[2 * k] = far_[2 * k + 1] = 0;
      if (i < own_) {
        far_[2 * k] = words_[2 * i], far_[2 * k + 1] = words_[2 * i + 1];
      } else if (i < total_) {
        const uint16_t word = handed_over(ring)[i - own_];
        far_[2 * k] = word & 255, far_[2 * k + 1] = word >> 8;
      }
    }
  }

  CCM_DEVICE static void put_word(uint16_t* ring, int32_t i, uint16_t word) {
    const int32_t place = i & (kWordRing - 1);
    ring[place] = word;
    if (place < kRingAgain) ring[kWordRing + place] = word;
  }

  CCM_DEVICE static uint16_t* handed_over(uint16_t* ring) { return ring + kWordRing + kRingAgain + kSpareWords; }

  CCM_DEVICE void open_version_1(const uint8_t* data, int64_t size) {
    const int32_t head = lanes_ * kStateBytes;
    if (size < head) {
      bad_ = kTruncated;
      return;
    }
    const uint64_t x = read_state(data + lane_of_stream() * kStateBytes, kStateBytes);
    set_state(x);
    const bool low = x < (size >= head + 2 ? kStateLow : end_state(lanes_));
    if (__any_sync(kWarp, low)) bad_ = kDamaged;
    words_from(data + head, size - head);
  }

  // An unsigned LEB128 number of at most 5 bytes without superfluous zero groups, taken from the front.
  CCM_DEVICE static Status read_varint(const uint8_t*& data, int64_t& size, int64_t& value) {
    value = 0;
    for (int i = 0; i < 5; ++i) {
      if (!size) return kTruncated;
      const uint8_t byte = *data++;
      --size;
      value |= static_cast<int64_t>(byte & 127) << (7 * i);
      if (byte < 128) return byte || !i ? kOk : kDamaged;
    }
    return kDamaged;
  }

  // Version 2: finds the sequence behind the lengths of all but the last.
  CCM_DEVICE void open_sequence(const uint8_t* data, int64_t size, int32_t q) {
    int64_t before = 0, own = 0;
    for (int32_t k = 0; k + 1 < sequences_ && bad_ == kOk; ++k) {
      int64_t length;
      bad_ = read_varint(data, size, length);
      if (k < q) before += length;
      if (k == q) own = length;
    }
    if (bad_ == kOk && before + own > size) bad_ = kTruncated;
    if (bad_ == kOk) read_version_2(data + before, q + 1 == sequences_ ? size - before : own);
  }

  CCM_DEVICE void read_version_2(const uint8_t* data, int64_t size) {
    if (lanes_ == 1 && size <= kStateBytes) {  // the state alone, written as short as can be
      const uint64_t x = size ? read_state(data, size) : kStateFirst;
      set_state(x);
      if (size && (!data[size - 1] || x <= kStateFirst)) bad_ = kDamaged;
      return;
    }
    const int32_t mine = lane_of_stream();
    uint32_t flags = static_cast<uint32_t>(size & 1);  // bit k: the state of lane k has five bytes
    int32_t head = 0;
    if (lanes_ > 1) {
      head = flag_bytes(lanes_);
      if (size < head) {
        bad_ = kTruncated;
        return;
      }
      flags = static_cast<uint32_t>(read_state(data, head));
      if (lanes_ < 8 && flags >> lanes_) bad_ = kDamaged;
      if (lanes_ < 8) flags &= (1u << lanes_) - 1;
    }
    const int32_t all = head + lanes_ * (kStateBytes - 1) + __popc(flags);
    if (size < all) {
      bad_ = kTruncated;
      return;
    }
    const int32_t at = head + mine * (kStateBytes - 1) + __popc(flags & ((1u << mine) - 1));
    const bool longer = flags >> mine & 1;
    const uint64_t x = read_state(data + at, kStateBytes - 1 + longer);
    set_state(x);
    const bool low = x < (longer ? kStateLong : (size >= all + 2 ? kStateLow : kStateFirst));
    if (__any_sync(kWarp, low)) bad_ = kDamaged;
    words_from(data + all, size - all);
  }

  uint32_t least_ = 0;  // where a lane of version 1 ends; 0: version 2
  int32_t own_ = 0;     // words of the stream's bytes
  const uint8_t* words_ = nullptr;
  unsigned far_[4] = {0, 0, 0, 0};
};

}  // namespace ccm
