#include "cpu/rans_cpu.h"

#include <algorithm>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace ccm {
namespace {

// How many of a window's 16 cumulative starts are <= slot.
inline int32_t count_at_most(const uint16_t* window, uint32_t slot) {
#if defined(__SSE2__)
  const __m128i s = _mm_set1_epi16(static_cast<int16_t>(slot)), zero = _mm_setzero_si128();
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(window));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(window + 8));
  // SSE2 has no unsigned 16-bit comparison: w <= s exactly when the saturating difference w - s is zero.
  const __m128i le_a = _mm_cmpeq_epi16(_mm_subs_epu16(a, s), zero);
  const __m128i le_b = _mm_cmpeq_epi16(_mm_subs_epu16(b, s), zero);
  // Starts ascend, so the mask is a run of ones from bit 0: its length is the position of the first zero.
  const uint32_t mask = static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(le_a, le_b)));
  return __builtin_ctz(~mask);
#else
  int32_t n = 0;
  for (int i = 0; i < kWindow; ++i) n += window[i] <= slot;
  return n;
#endif
}

// Entry of a row that holds `slot`, by bisection over the whole row.
int32_t bisect(const uint32_t* entries, int32_t count, uint32_t slot) {
  int32_t lo = 0, hi = count;
  while (hi - lo > 1) {
    const int32_t mid = (lo + hi) / 2;
    if ((entries[mid] & kProbMask) <= slot)
      lo = mid;
    else
      hi = mid;
  }
  return lo;
}

inline int32_t find_entry(const Rows& tables, const RowInfo& info, uint32_t row, uint32_t slot) {
  const int32_t n = std::min<int32_t>(count_at_most(tables.windows + row * kWindow, slot), info.inside);
  const uint32_t* entries = tables.entries + info.first;
  const int32_t after = info.window + kWindow;
  if (CCM_UNLIKELY(n == 0 || (n == kWindow && after < info.count && (entries[after] & kProbMask) <= slot)))
    return bisect(entries, info.count, slot);
  return info.window + n - 1;
}

inline bool fits(int32_t v) { return v >= -32767 && v <= 32767; }

}  // namespace

StreamDecoder::StreamDecoder(const uint8_t* data, size_t size, int32_t lanes)
    : end_state_(end_state(lanes)), lanes_(lanes) {
  const size_t head = static_cast<size_t>(lanes) * kStateBytes;
  if (size < head) {
    truncated_ = true;
    std::fill(state_, state_ + kMaxLanes, kStateLow);
    next_ = end_ = data;
    return;
  }
  for (int32_t l = 0; l < lanes; ++l) {
    uint64_t x = 0;
    for (int b = 0; b < kStateBytes; ++b) x |= static_cast<uint64_t>(data[l * kStateBytes + b]) << (8 * b);
    if (x < (size >= head + 2 ? kStateLow : end_state_)) damaged_ = true;
    state_[l] = x;
  }
  if ((size - head) % 2) damaged_ = true;
  next_ = data + head;
  end_ = next_ + (size - head) / 2 * 2;
}

inline void StreamDecoder::refill(uint64_t& x) {
  if (x >= kStateLow) return;
  if (CCM_LIKELY(next_ != end_)) {
    x = x << 16 | next_[0] | static_cast<uint32_t>(next_[1]) << 8;
    next_ += 2;
  } else if (x < end_state_) {
    truncated_ = true;
    x = x << 16;  // anything; it keeps the state from reaching zero
  }
}

uint32_t StreamDecoder::raw_bits(int32_t lane, int32_t bits) {
  uint64_t& x = state_[lane];
  const uint32_t slot = static_cast<uint32_t>(x) & kProbMask;
  const uint32_t value = slot >> (kProbBits - bits);
  x = rans_advance(x, slot, value << (kProbBits - bits), 1u << (kProbBits - bits));
  refill(x);
  return value;
}

void StreamDecoder::decode_escapes(const Rows& tables, const uint16_t* rows, const int16_t* offsets, uint32_t lanes,
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
    const int32_t half = static_cast<int32_t>(e >> 1);
    const int32_t v = (e & 1 ? info.lo - 1 - half : info.lo + info.count - 1 + half) + offsets[l];
    if (!fits(v)) damaged_ = true;
    out[l] = static_cast<int16_t>(v);
  }
}

template <int kLanes>
void StreamDecoder::decode(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n, int16_t* out) {
  for (int32_t first = 0; first < n; first += kLanes) {
    const int32_t count = std::min(kLanes, n - first);
    uint32_t escaped = 0, outside = 0;
    for (int32_t l = 0; l < count; ++l) {
      uint64_t x = state_[l];
      const uint32_t row = rows[first + l];
      const RowInfo info = tables.info[row];
      const uint32_t slot = static_cast<uint32_t>(x) & kProbMask;
      const int32_t k = find_entry(tables, info, row, slot);
      const uint32_t entry = tables.entries[info.first + k];
      x = rans_advance(x, slot, entry & kProbMask, entry >> 16);
      refill(x);
      state_[l] = x;
      escaped |= static_cast<uint32_t>(k + 1 == info.count) << l;
      const int32_t v = info.lo + k + offsets[first + l];
      outside |= static_cast<uint32_t>(!fits(v)) << l;
      out[first + l] = static_cast<int16_t>(v);
    }
    // An escape's preliminary value (one past its row) may lie outside; its true one is checked in decode_escapes.
    if (CCM_UNLIKELY(outside & ~escaped)) damaged_ = true;
    if (CCM_UNLIKELY(escaped)) decode_escapes(tables, rows + first, offsets + first, escaped, out + first);
  }
}

bool StreamDecoder::decode_step(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n,
                                int16_t* out) {
  switch (lanes_) {
    case 1:
      decode<1>(tables, rows, offsets, n, out);
      break;
    case 2:
      decode<2>(tables, rows, offsets, n, out);
      break;
    case 4:
      decode<4>(tables, rows, offsets, n, out);
      break;
    case 8:
      decode<8>(tables, rows, offsets, n, out);
      break;
    case 16:
      decode<16>(tables, rows, offsets, n, out);
      break;
    default:
      decode<32>(tables, rows, offsets, n, out);
  }
  return !truncated_ && !damaged_;
}

Status StreamDecoder::finish() const {
  if (truncated_) return kTruncated;
  bool good = !damaged_ && next_ == end_;
  for (int32_t l = 0; l < lanes_; ++l) good &= state_[l] == end_state_;
  return good ? kOk : kDamaged;
}

namespace {

class StreamEncoder {
 public:
  StreamEncoder(const Rows& tables, int32_t lanes) : tables_(tables), lanes_(lanes) {
    std::fill(state_, state_ + kMaxLanes, end_state(lanes));
  }

  // A step's symbols, last round first, last phase first, last lane first: the decoder's order backwards.
  void step(const Coded* symbols, int32_t n) {
    for (int32_t first = (n - 1) / lanes_ * lanes_; first >= 0; first -= lanes_) {
      const int32_t count = std::min(lanes_, n - first);
      uint32_t escape[kMaxLanes];
      uint32_t escaped = 0;
      for (int32_t l = 0; l < count; ++l) {
        const Coded& s = symbols[first + l];
        const RowInfo& info = tables_.info[s.row];
        const int32_t hi = info.lo + info.count - 2;
        if (s.value >= info.lo && s.value <= hi) continue;
        escaped |= 1u << l;
        escape[l] = s.value > hi ? 2u * static_cast<uint32_t>(s.value - hi - 1)
                                 : 2u * static_cast<uint32_t>(info.lo - 1 - s.value) + 1;
      }
      if (escaped) push_escapes(escape, escaped);
      for (int32_t l = count - 1; l >= 0; --l) {
        const Coded& s = symbols[first + l];
        const RowInfo& info = tables_.info[s.row];
        const int32_t k = escaped >> l & 1 ? info.count - 1 : s.value - info.lo;
        const uint32_t entry = tables_.entries[info.first + k];
        push(l, entry & kProbMask, entry >> 16);
      }
    }
  }

  std::vector<uint8_t> finish() const {
    std::vector<uint8_t> out;
    out.reserve(static_cast<size_t>(lanes_) * kStateBytes + 2 * words_.size());
    for (int32_t l = 0; l < lanes_; ++l)
      for (int b = 0; b < kStateBytes; ++b) out.push_back(static_cast<uint8_t>(state_[l] >> (8 * b)));
    for (size_t i = words_.size(); i-- > 0;) {
      out.push_back(static_cast<uint8_t>(words_[i]));
      out.push_back(static_cast<uint8_t>(words_[i] >> 8));
    }
    return out;
  }

 private:
  void push(int32_t lane, uint32_t start, uint32_t freq) {
    uint16_t word;
    if (rans_push(state_[lane], start, freq, word)) words_.push_back(word);
  }
  void push_raw(int32_t lane, uint32_t value, int32_t bits) {
    push(lane, value << (kProbBits - bits), 1u << (kProbBits - bits));
  }
  void push_escapes(const uint32_t* escape, uint32_t escaped) {
    int32_t length[kMaxLanes];
    for (int32_t l = lanes_ - 1; l >= 0; --l) {
      if (!(escaped >> l & 1)) continue;
      length[l] = escape[l] ? 32 - __builtin_clz(escape[l]) : 0;
      if (length[l] >= 2) push_raw(l, escape[l] & ((1u << (length[l] - 1)) - 1), length[l] - 1);
    }
    for (int32_t l = lanes_ - 1; l >= 0; --l)
      if (escaped >> l & 1) push_raw(l, static_cast<uint32_t>(length[l]), kEscapeLengthBits);
  }

  const Rows& tables_;
  int32_t lanes_;
  uint64_t state_[kMaxLanes];
  std::vector<uint16_t> words_;
};

std::vector<uint8_t> encode_lanes(const Rows& tables, const std::vector<Coded>& symbols,
                                  const std::vector<int32_t>& steps, int32_t lanes) {
  StreamEncoder encoder(tables, lanes);
  size_t end = symbols.size();
  for (size_t s = steps.size(); s-- > 0;) {
    end -= steps[s];
    encoder.step(symbols.data() + end, steps[s]);
  }
  return encoder.finish();
}

}  // namespace

std::vector<uint8_t> encode_stream(const Rows& tables, const std::vector<Coded>& symbols,
                                   const std::vector<int32_t>& steps, int32_t lanes, int32_t* lanes_used) {
  if (lanes) {
    *lanes_used = lanes;
    return encode_lanes(tables, symbols, steps, lanes);
  }
  std::vector<uint8_t> one = encode_lanes(tables, symbols, steps, 1);
  *lanes_used = choose_lanes(static_cast<int64_t>(one.size()));
  return *lanes_used == 1 ? one : encode_lanes(tables, symbols, steps, *lanes_used);
}

int32_t choose_lanes(int64_t payload) {
  int32_t lanes = 1;
  while (lanes < kMaxLanes && 2 * lanes * kStateBytes * 400 <= payload) lanes *= 2;
  return lanes;
}

uint32_t crc32c(const uint8_t* data, size_t size, uint32_t crc) {
  // Slicing by eight: eight tables let one iteration take eight bytes.
  static const struct Tables {
    uint32_t t[8][256];
    Tables() {
      for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int k = 0; k < 8; ++k) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;  // the polynomial, bit-reversed
        t[0][i] = c;
      }
      for (int s = 1; s < 8; ++s)
        for (int i = 0; i < 256; ++i) t[s][i] = t[s - 1][i] >> 8 ^ t[0][t[s - 1][i] & 255];
    }
  } tables;
  const auto& t = tables.t;
  crc = ~crc;
  for (; size >= 8; size -= 8, data += 8) {
    crc ^= data[0] | data[1] << 8 | data[2] << 16 | static_cast<uint32_t>(data[3]) << 24;
    crc = t[7][crc & 255] ^ t[6][crc >> 8 & 255] ^ t[5][crc >> 16 & 255] ^ t[4][crc >> 24] ^ t[3][data[4]] ^
          t[2][data[5]] ^ t[1][data[6]] ^ t[0][data[7]];
  }
  for (; size; --size, ++data) crc = crc >> 8 ^ t[0][(crc ^ *data) & 255];
  return ~crc;
}

}  // namespace ccm
