#include "entropy/cpu/rans_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/cpu.h"
#include "entropy/cpu/rans_kernels.h"
#include "format/escape.h"
#include "format/symbol.h"
#include "model/rows.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace ccm {
namespace {

// How many of the 16 values lie below the slot before the first that does not. kSimd: by SSE2, where there is that.
template <bool kSimd>
inline int32_t count_below(const uint16_t* below, uint32_t slot) {
#if defined(__SSE2__)
  if constexpr (kSimd) {
    const __m128i s = _mm_set1_epi16(static_cast<int16_t>(slot)), zero = _mm_setzero_si128();
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(below));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(below + 8));
    // SSE2 has no unsigned 16-bit comparison: v < s exactly when the saturating difference s - v is not zero.
    const __m128i not_a = _mm_cmpeq_epi16(_mm_subs_epu16(s, a), zero);
    const __m128i not_b = _mm_cmpeq_epi16(_mm_subs_epu16(s, b), zero);
    return __builtin_ctz(static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(not_a, not_b))) | 1u << kWindow);
  }
#endif
  int32_t n = 0;
  while (n < kWindow && below[n] < slot) ++n;
  return n;
}

// The entry of a row that holds `slot`; it is known not to come before k.
template <bool kSimd>
inline int32_t find_entry(const uint16_t* below, uint32_t slot, int32_t k) {
  int32_t n;
  do {  // again only in a row's flanks, where its entries are many and narrow
    n = count_below<kSimd>(below + k, slot);
    k += n;
  } while (CCM_UNLIKELY(n == kWindow));
  return k;
}

// Undoes one symbol of a row, the refill excepted, and finds its entry.
template <bool kSimd>
inline uint64_t decode_one(const Rows& tables, uint32_t row, uint64_t x, int32_t& k) {
  const uint32_t slot = static_cast<uint32_t>(x) & kProbMask;
  const uint32_t where = tables.find[row].bucket;
  const Bucket& bucket = tables.buckets[(where >> 4) + (slot >> (where & 15))];
  uint32_t entry = bucket.entry;
  k = static_cast<int32_t>(bucket.k);
  if (CCM_UNLIKELY(slot - (entry & kProbMask) >= entry >> 16)) {
    const RowInfo& info = tables.info[row];
    k = find_entry<kSimd>(tables.below + info.first + 1, slot, k);
    entry = tables.entries[info.first + k];
  }
  return rans_advance(x, slot, entry & kProbMask, entry >> 16);
}

template <int kLanes, bool kSimd>
int32_t plain_rounds(const Rows& tables, const uint16_t* rows, int32_t n, int16_t* out, uint64_t* state,
                     const uint8_t*& next_word, uint32_t& escaped) {
  uint64_t x[kLanes];
  std::copy(state, state + kLanes, x);
  const uint8_t* next = next_word;
  int32_t first = 0;
  for (; first < n && !escaped; first += kLanes) {
    for (int32_t l = 0; l < kLanes; ++l) {
      const RowInfo& info = tables.info[rows[first + l]];
      int32_t k;
      x[l] = decode_one<kSimd>(tables, rows[first + l], x[l], k);
      if (x[l] < kStateLow) {
        x[l] = x[l] << 16 | next[0] | static_cast<uint32_t>(next[1]) << 8;
        next += 2;
      }
      escaped |= static_cast<uint32_t>(k + 1 == info.count) << l;
      out[first + l] = static_cast<int16_t>(info.lo + k);
    }
  }
  std::copy(x, x + kLanes, state);
  next_word = next;
  return first;
}

template <bool kSimd>
RansRounds plain_rounds_of(int32_t lanes) {
  switch (lanes) {
    case 1:
      return &plain_rounds<1, kSimd>;
    case 2:
      return &plain_rounds<2, kSimd>;
    case 4:
      return &plain_rounds<4, kSimd>;
    case 8:
      return &plain_rounds<8, kSimd>;
    case 16:
      return &plain_rounds<16, kSimd>;
    default:
      return &plain_rounds<32, kSimd>;
  }
}

// Random bytes, short and long rows, with and without escapes: a decoder's whole state has to be the same at every
// stop.
[[maybe_unused]] bool same_as_plain(RansRounds vector, int32_t lanes) {
  uint32_t seed = 1;
  auto next = [&seed] { return seed = seed * 1664525u + 1013904223u, seed >> 16; };
  std::vector<int32_t> lo, n;
  std::vector<uint16_t> cdf;
  for (int32_t count : {2, 5, 9, 17, 18, 40, 300}) {
    std::vector<uint16_t> c{0};
    while (static_cast<int32_t>(c.size()) < count) {
      // Mostly narrow entries beside a few wide ones; the escape of every other row is narrow.
      const uint32_t v = count % 2 ? 65536 - next() % (next() % 3 ? 4000 : 65000) - 1 : next() % 65000 + 1;
      if (v && std::find(c.begin(), c.end(), v) == c.end()) c.push_back(static_cast<uint16_t>(v));
    }
    std::sort(c.begin(), c.end());
    lo.push_back(-count / 2);
    n.push_back(count);
    cdf.insert(cdf.end(), c.begin(), c.end());
  }
  const OwnedRows owned = build_rows(lo, n, cdf);
  const Rows tables = owned.view();
  const int32_t symbols = lanes * 64;
  std::vector<uint8_t> bytes(2 * symbols);
  std::vector<uint16_t> rows(symbols);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(next());
  for (uint16_t& r : rows) r = static_cast<uint16_t>(next() % n.size());
  uint64_t a[kMaxLanes], b[kMaxLanes];
  for (int32_t l = 0; l < lanes; ++l) a[l] = b[l] = kStateLow + next() * uint64_t{0xffffff} + next();
  std::vector<int16_t> out_a(symbols), out_b(symbols);
  const uint8_t *next_a = bytes.data(), *next_b = bytes.data();
  for (int32_t at = 0; at < symbols;) {
    uint32_t escaped_a = 0, escaped_b = 0;
    const int32_t done =
        plain_rounds_of<false>(lanes)(tables, &rows[at], symbols - at, &out_a[at], a, next_a, escaped_a);
    if (vector(tables, &rows[at], symbols - at, &out_b[at], b, next_b, escaped_b) != done || escaped_a != escaped_b ||
        next_a != next_b || !std::equal(a, a + lanes, b))
      return false;
    at += done;
  }
  return out_a == out_b;
}

// Symbols decoded with a check for the end of the bytes at each word, before it is worth looking again whether that can
// be left out.
constexpr int32_t kCheckedSymbols = 64;

// An unsigned LEB128 number of at most 5 bytes without superfluous zero groups, taken from the front.
Status read_varint(const uint8_t*& data, size_t& size, size_t& value) {
  value = 0;
  for (int i = 0; i < 5; ++i) {
    if (!size) return kTruncated;
    const uint8_t byte = *data++;
    --size;
    value |= static_cast<size_t>(byte & 127) << (7 * i);
    if (byte < 128) return byte || !i ? kOk : kDamaged;
  }
  return kDamaged;
}

}  // namespace

RansRounds vector_rounds(int32_t lanes) {
#if defined(CCM_HAVE_AVX2)
  static const struct Table {
    RansRounds of[kMaxLanes + 1] = {};
    Table() {
      if (!cpu_has(kCpuAvx2)) return;
      for (int32_t l = 8; l <= kMaxLanes; l *= 2)
        if (same_as_plain(avx2_rounds(l), l)) of[l] = avx2_rounds(l);
    }
  } table;
  return table.of[lanes];
#else
  static_cast<void>(lanes);
  return nullptr;
#endif
}

SequenceDecoder::SequenceDecoder(const uint8_t* data, size_t size, StreamKind kind, Vectors vectors)
    : least_state_(kind.version == 2 ? kStateFirst : end_state(kind.lanes)),
      vectors_(vectors),
      simd_(vectors != Vectors::kNone),
      version_(kind.version) {
  use_lanes(kind.lanes);
  std::fill(state_, state_ + kMaxLanes, kStateLow);
  next_ = end_ = data;
  version_ == 2 ? read_states_of_2(data, size) : read_states(data, size);
}

void SequenceDecoder::use_lanes(int32_t lanes) {
  lanes_ = lanes;
  plain_ = simd_ ? plain_rounds_of<true>(lanes) : plain_rounds_of<false>(lanes);
  vector_ = vectors_ == Vectors::kBest ? vector_rounds(lanes) : nullptr;
}

void SequenceDecoder::retire(int32_t lanes) {
  std::vector<uint8_t> words(next_, end_);
  for (int32_t l = lanes; l < lanes_; ++l) {
    if (state_[l] >> 32 != kHandedOver >> 32) damaged_ = true;
    for (const int shift : {16, 24, 0, 8}) words.push_back(static_cast<uint8_t>(state_[l] >> shift));
  }
  words_ = std::move(words);
  next_ = words_.data();
  end_ = next_ + words_.size();
  use_lanes(lanes);
}

uint64_t SequenceDecoder::read_state(const uint8_t* data, int bytes) {
  uint64_t x = 0;
  for (int b = 0; b < bytes; ++b) x |= static_cast<uint64_t>(data[b]) << (8 * b);
  return x;
}

void SequenceDecoder::read_states(const uint8_t* data, size_t size) {
  const size_t head = static_cast<size_t>(lanes_) * kStateBytes;
  if (size < head) {
    truncated_ = true;
    return;
  }
  for (int32_t l = 0; l < lanes_; ++l) {
    state_[l] = read_state(data + l * kStateBytes, kStateBytes);
    if (state_[l] < (size >= head + 2 ? kStateLow : least_state_)) damaged_ = true;
  }
  if ((size - head) % 2) damaged_ = true;
  next_ = data + head;
  end_ = next_ + (size - head) / 2 * 2;
}

void SequenceDecoder::read_states_of_2(const uint8_t* data, size_t size) {
  const uint8_t* const end = data + size;
  uint8_t lengths[kMaxLanes];
  if (lanes_ == 1) {
    lengths[0] = static_cast<uint8_t>(size > kStateBytes ? kStateBytes - 1 + size % 2 : size);
    if (size <= kStateBytes) {  // the state alone, written as short as can be
      state_[0] = size ? read_state(data, static_cast<int>(size)) : kStateFirst;
      damaged_ = size && (!data[size - 1] || state_[0] <= kStateFirst);
      next_ = end_ = end;
      return;
    }
  } else {
    const int32_t flags = flag_bytes(lanes_);
    if (size < static_cast<size_t>(flags)) {
      truncated_ = true;
      return;
    }
    for (int32_t l = 0; l < 8 * flags; ++l) {
      const int bit = data[l / 8] >> (l % 8) & 1;
      if (l < lanes_)
        lengths[l] = static_cast<uint8_t>(kStateBytes - 1 + bit);
      else if (bit)
        damaged_ = true;
    }
    data += flags;
  }
  for (int32_t l = 0; l < lanes_; ++l) {
    if (end - data < lengths[l]) {
      truncated_ = true;
      return;
    }
    state_[l] = read_state(data, lengths[l]);
    if (state_[l] < (lengths[l] == kStateBytes ? kStateLong : kStateFirst)) damaged_ = true;
    data += lengths[l];
  }
  if ((end - data) % 2) damaged_ = true;
  next_ = data;
  end_ = data + (end - data) / 2 * 2;
  if (next_ != end_)
    for (int32_t l = 0; l < lanes_; ++l) damaged_ |= state_[l] < kStateLow;
}

inline void SequenceDecoder::refill(uint64_t& x) {
  if (x >= kStateLow) return;
  if (CCM_LIKELY(next_ != end_)) {
    x = x << 16 | next_[0] | static_cast<uint32_t>(next_[1]) << 8;
    next_ += 2;
  } else if (x < least_state_) {
    if (version_ == 2) {  // without words a state falls or stays, and no end is as low
      damaged_ = true;
      return;
    }
    truncated_ = true;
    x = x << 16;  // anything; it keeps the state from reaching zero
  }
}

uint32_t SequenceDecoder::raw_bits(int32_t lane, int32_t bits) {
  uint64_t& x = state_[lane];
  const uint32_t slot = static_cast<uint32_t>(x) & kProbMask;
  const uint32_t value = slot >> (kProbBits - bits);
  x = rans_advance(x, slot, value << (kProbBits - bits), 1u << (kProbBits - bits));
  refill(x);
  return value;
}

void SequenceDecoder::decode_escapes(const Rows& tables, const uint16_t* rows, const int16_t* offsets, uint32_t lanes,
                                     int16_t* out) {
  uint32_t length[kMaxLanes];
  for (uint32_t left = lanes; left; left &= left - 1) {
    const int32_t l = __builtin_ctz(left);
    length[l] = raw_bits(l, kEscapeLengthBits);
    if (length[l] > kEscapeMaxLength) {
      damaged_ = true;
      length[l] = 0;
    }
  }
  for (uint32_t left = lanes; left; left &= left - 1) {
    const int32_t l = __builtin_ctz(left);
    uint32_t e = length[l];  // 0 and 1 are their own bit lengths
    if (length[l] >= 2) {
      const int32_t low = static_cast<int32_t>(length[l]) - 1;
      e = 1u << low | raw_bits(l, low);
    }
    const RowInfo& info = tables.info[rows[l]];
    const int32_t v = escape_value(info.lo, info.count, e) + (offsets ? offsets[l] : 0);
    if (!symbol_fits(v)) damaged_ = true;
    out[l] = static_cast<int16_t>(v);
  }
}

int32_t SequenceDecoder::checked_rounds(const Rows& tables, const uint16_t* rows, int32_t n, int16_t* out,
                                        uint32_t& escaped) {
  int32_t first = 0;
  while (first < n && !escaped) {
    const int32_t count = std::min(lanes_, n - first);
    for (int32_t l = 0; l < count; ++l) {
      const uint32_t row = rows[first + l];
      const RowInfo& info = tables.info[row];
      int32_t k;
      state_[l] = simd_ ? decode_one<true>(tables, row, state_[l], k) : decode_one<false>(tables, row, state_[l], k);
      refill(state_[l]);
      escaped |= static_cast<uint32_t>(k + 1 == info.count) << l;
      out[first + l] = static_cast<int16_t>(info.lo + k);
    }
    first += count;
  }
  return first;
}

void SequenceDecoder::add_offsets(const int16_t* offsets, int32_t n, int16_t* out) {
  if (!offsets) return;
  int16_t overflow = 0, lowest = 0;
  for (int32_t i = 0; i < n; ++i) {  // written for vectors of 16-bit numbers
    const int16_t a = out[i], b = offsets[i], sum = static_cast<int16_t>(a + b);
    overflow = static_cast<int16_t>(overflow | ((a ^ sum) & (b ^ sum)));
    lowest = static_cast<int16_t>(lowest | (sum == -32768));
    out[i] = sum;
  }
  if (overflow < 0 || lowest) damaged_ = true;
}

bool SequenceDecoder::decode(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n,
                             int16_t* out) {
  const RansRounds rounds = vector_ && fits_origin(tables) ? vector_ : plain_;
  int32_t at = 0, plain = 0;  // plain: where the values begin whose offsets are still to be added
  while (at < n) {
    // As many rounds as the bytes will do for, however many words they take.
    const int64_t safe = std::min<int64_t>((n - at) / lanes_, (end_ - next_) / (2 * lanes_)) * lanes_;
    uint32_t escaped = 0;
    at += safe ? rounds(tables, rows + at, static_cast<int32_t>(safe), out + at, state_, next_, escaped)
               : checked_rounds(tables, rows + at, std::min(n - at, kCheckedSymbols), out + at, escaped);
    if (CCM_UNLIKELY(truncated_)) return false;
    if (CCM_UNLIKELY(escaped)) {
      const int32_t count = (at - 1) % lanes_ + 1, round = at - count;
      add_offsets(offsets ? offsets + plain : nullptr, round - plain, out + plain);
      for (int32_t i = round; i < at; ++i) {  // an escape's value is only preliminary here
        const int32_t v = out[i] + (offsets ? offsets[i] : 0);
        if (!(escaped >> (i - round) & 1) && !symbol_fits(v)) damaged_ = true;
        out[i] = static_cast<int16_t>(v);
      }
      decode_escapes(tables, rows + round, offsets ? offsets + round : nullptr, escaped, out + round);
      plain = at;
    }
  }
  add_offsets(offsets ? offsets + plain : nullptr, n - plain, out + plain);
  in_step_ += n;
  return !truncated_ && !damaged_;
}

void SequenceDecoder::end_step() {
  if (version_ == 2) std::rotate(state_, state_ + next_turn(0, in_step_, lanes_), state_ + lanes_);
  in_step_ = 0;
}

Status SequenceDecoder::finish() const {
  if (truncated_) return kTruncated;
  bool good = !damaged_ && next_ == end_;
  for (int32_t l = 0; l < lanes_; ++l) good &= version_ == 2 ? valid_end(state_[l]) : state_[l] == least_state_;
  return good ? kOk : kDamaged;
}

StreamDecoder::StreamDecoder(const uint8_t* data, size_t size, int64_t code, Vectors vectors) {
  const StreamKind kind = stream_kind(code);
  taper_ = kind.taper;
  const int32_t count = std::max(1, kind.lanes / kSequenceLanes);
  const StreamKind each{kind.version, kind.lanes / count};
  std::vector<size_t> lengths(count);
  for (int32_t q = 0; q + 1 < count && status_ == kOk; ++q) status_ = read_varint(data, size, lengths[q]);
  for (int32_t q = 0; q < count; ++q) {
    if (q + 1 == count) lengths[q] = size;
    if (lengths[q] > size) {
      if (status_ == kOk) status_ = kTruncated;
      lengths[q] = size;
    }
    sequences_.emplace_back(data, lengths[q], each, vectors);
    if (status_ == kOk && sequences_.back().over()) status_ = sequences_.back().finish();
    data += lengths[q];
    size -= lengths[q];
  }
}

bool StreamDecoder::decode(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n, int16_t* out) {
  if (sequences_.size() == 1) return sequences_[0].decode(tables, rows, offsets, n, out);
  bool good = status_ == kOk;
  const int32_t next = static_cast<int32_t>(sequences_.size()) * kSequenceLanes;  // block of the same sequence
  rows_.resize(n);
  offsets_.resize(n);
  out_.resize(n);
  for (size_t q = 0; q < sequences_.size(); ++q) {
    const auto blocks = [&](auto each) {
      int32_t at = 0;
      for (int32_t i = static_cast<int32_t>(q) * kSequenceLanes; i < n; i += next) {
        const int32_t count = std::min(kSequenceLanes, n - i);
        each(i, at, count);
        at += count;
      }
      return at;
    };
    const int32_t own = blocks([&](int32_t i, int32_t at, int32_t count) {
      std::copy_n(rows + i, count, &rows_[at]);
      if (offsets) std::copy_n(offsets + i, count, &offsets_[at]);
    });
    good &= sequences_[q].decode(tables, rows_.data(), offsets ? offsets_.data() : nullptr, own, out_.data());
    blocks([&](int32_t i, int32_t at, int32_t count) { std::copy_n(&out_[at], count, out + i); });
  }
  return good;
}

bool StreamDecoder::begin_step(int32_t left) {
  if (!taper_) return true;
  SequenceDecoder& s = sequences_[0];
  const int32_t lanes = tapered_lanes(s.lanes(), taper_, left);
  if (lanes < s.lanes() && begun_) s.retire(lanes);
  if (lanes < s.lanes() && status_ == kOk) status_ = kDamaged;  // some would never have a symbol
  begun_ = true;
  return status_ == kOk;
}

void StreamDecoder::end_step() {
  for (SequenceDecoder& s : sequences_) s.end_step();
}

Status StreamDecoder::finish() const {
  Status status = status_;
  for (const SequenceDecoder& s : sequences_)
    if (status == kOk) status = s.finish();
  if (status == kOk && taper_ && !begun_) status = kDamaged;  // z has none
  return status;
}

bool StreamDecoder::over() const {
  return status_ != kOk ||
         std::all_of(sequences_.begin(), sequences_.end(), [](const SequenceDecoder& s) { return s.over(); });
}

}  // namespace ccm
