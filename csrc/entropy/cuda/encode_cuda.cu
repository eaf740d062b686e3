// rANS encoding: one warp a stream, one thread a lane, backwards from the last symbol to the first.
#include "entropy/cuda/kernels_cuda.h"
#include "entropy/cuda/product.cuh"
#include "format/rans.h"

namespace ccm {
namespace {

constexpr unsigned kWarp = 0xffffffffu;

// x / freq where x < freq * 2^24, by long division: the compiler's own would use floating point.
CCM_DEVICE uint32_t divide(uint64_t x, uint32_t freq, uint32_t& remainder) {
  uint32_t rest = static_cast<uint32_t>(x >> 24), low = static_cast<uint32_t>(x) << 8, quotient = 0;
#pragma unroll 4
  for (int i = 0; i < 24; ++i) {
    rest = rest << 1 | low >> 31;
    low <<= 1;
    quotient <<= 1;
    if (rest >= freq) rest -= freq, quotient |= 1;
  }
  remainder = rest;
  return quotient;
}

class WarpEncoder {
 public:
  // Words end at `end` and grow downwards; null: they are only counted.
  CCM_DEVICE WarpEncoder(const DeviceModel& m, const DeviceRows& rows, int32_t lanes, uint8_t* end)
      : m_(m), rows_(rows), lanes_(lanes), end_(end), x_(end_state(lanes)) {}

  // Symbols coded(0) .. coded(n - 1) of one step.
  template <class Coded>
  CCM_DEVICE void step(int32_t n, Coded coded) {
    const int32_t lane = threadIdx.x & 31;
    // Rounds backwards; lanes are a power of two.
    for (int32_t first = (n - 1) & ~(lanes_ - 1); first >= 0; first -= lanes_) {
      const bool active = lane < lanes_ && first + lane < n;
      const uint64_t symbol = active ? coded(first + lane) : 0;
      const int32_t value = static_cast<int32_t>(symbol);
      const DeviceRow& row = m_.at<DeviceRow>(rows_.rows)[symbol >> 32];
      const int32_t k = value - row.lo, entries = row.count - 1, hi = row.lo + row.count - 2;
      const bool escaped = active && (k < 0 || k >= entries);
      if (__any_sync(kWarp, escaped)) {
        const uint32_t e = value > hi ? 2u * static_cast<uint32_t>(value - hi - 1)
                                      : 2u * static_cast<uint32_t>(row.lo - 1 - value) + 1;
        const int32_t length = escaped ? 32 - __clz(static_cast<int>(e)) : 0;
        const int32_t bits = length >= 2 ? length - 1 : 1;
        push(escaped && length >= 2, (e & ((1u << bits) - 1)) << (kProbBits - bits), 1u << (kProbBits - bits));
        push(escaped, static_cast<uint32_t>(length) << (kProbBits - kEscapeLengthBits),
             1u << (kProbBits - kEscapeLengthBits));
      }
      const uint32_t entry = active ? m_.at<uint32_t>(rows_.entries)[row.first + (escaped ? entries : k)] : 1;
      push(active, entry >> 16, entry & kProbMask);
    }
  }

  CCM_DEVICE int64_t words() const { return words_; }

  // Writes the states in front of the words; returns where the stream begins.
  CCM_DEVICE uint8_t* finish() const {
    uint8_t* begin = end_ - 2 * words_ - lanes_ * kStateBytes;
    const int32_t lane = threadIdx.x & 31;
    if (lane < lanes_)
      for (int b = 0; b < kStateBytes; ++b) begin[lane * kStateBytes + b] = static_cast<uint8_t>(x_ >> (8 * b));
    return begin;
  }

 private:
  // One phase of a round: the last lane first, so that a decoder meets the words in the order of lanes.
  CCM_DEVICE void push(bool active, uint32_t start, uint32_t freq) {
    const bool emit = active && x_ >= static_cast<uint64_t>(freq) << 24;
    const unsigned mask = __ballot_sync(kWarp, emit);
    if (emit) {
      const unsigned above = mask & ~((2u << (threadIdx.x & 31)) - 1);
      if (end_) {
        uint8_t* to = end_ - 2 * (words_ + __popc(above) + 1);
        to[0] = static_cast<uint8_t>(x_);
        to[1] = static_cast<uint8_t>(x_ >> 8);
      }
      x_ >>= 16;
    }
    words_ += __popc(mask);
    if (active) {
      uint32_t remainder;
      const uint32_t quotient = divide(x_, freq, remainder);
      x_ = (static_cast<uint64_t>(quotient) << kProbBits) + remainder + start;
    }
  }

  const DeviceModel& m_;
  const DeviceRows& rows_;
  int32_t lanes_;
  uint8_t* end_;
  uint64_t x_;
  int64_t words_ = 0;
};

// All symbols of one stream; false: a value that no decoder would accept.
CCM_DEVICE bool encode_all(const EncodeArgs& a, int32_t image, int32_t group, WarpEncoder& encoder) {
  const DeviceModel& m = *a.model;
  if (!a.coded) {
    const int32_t channels = m.hyper_channels, n = a.positions * channels;
    const int16_t* z = a.z + static_cast<int64_t>(image) * n;
    bool fine = true;
    encoder.step(n, [&](int32_t i) {
      const uint32_t channel = i - quotient(i, m.per_hyper_channel) * channels;
      if (z[i] == -32768) fine = false;
      return static_cast<uint64_t>(channel) << 32 | static_cast<uint32_t>(static_cast<int32_t>(z[i]));
    });
    return __all_sync(kWarp, fine);
  }
  const DeviceGroup& d = m.group[group];
  const uint64_t* coded = a.coded + static_cast<int64_t>(image) * a.positions * m.latent_channels +
                          static_cast<int64_t>(a.positions) * d.first_channel;
  const GroupOrder order = a.order.of(group);
  for (int32_t s = order.steps - 1; s >= 0; --s) {
    const uint64_t* from = coded + static_cast<int64_t>(order.first[s]) * d.channels;
    encoder.step((order.first[s + 1] - order.first[s]) * d.channels, [&](int32_t i) { return from[i]; });
  }
  return true;  // latents_kernel has looked at them
}

}  // namespace

// Grid: streams of an image, images. Blocks of one warp.
__global__ void __launch_bounds__(32) encode_kernel(const EncodeArgs a) {
  const DeviceModel& m = *a.model;
  const int32_t group = blockIdx.x, image = blockIdx.y;
  const int64_t stream = static_cast<int64_t>(image) * gridDim.x + group;
  const DeviceRows& rows = a.coded ? m.y_rows : m.z_rows;
  uint8_t* const end = a.out.data + (stream + 1) * a.out.capacity;
  int64_t* segment = a.out.segments + stream * 3;
  if (a.skip && a.skip[image] != kOk) {
    if (threadIdx.x < 3) segment[threadIdx.x] = threadIdx.x == 2;
    return;
  }
  int32_t lanes = a.lanes;
  if (lanes == 0) {
    WarpEncoder one(m, rows, 1, nullptr);
    encode_all(a, image, group, one);
    lanes = lanes_for_payload(kStateBytes + 2 * one.words());
  }
  WarpEncoder encoder(m, rows, lanes, end);
  const bool fine = encode_all(a, image, group, encoder);
  const uint8_t* begin = fine ? encoder.finish() : end;
  if (threadIdx.x == 0) {
    segment[0] = begin - a.out.data;
    segment[1] = end - begin;
    segment[2] = lanes;
  }
}

cudaError_t launch_encode(const EncodeArgs& a, int32_t streams, cudaStream_t stream) {
  return launch(encode_kernel, dim3(streams, a.batch), dim3(32), 0, stream, false, a);
}

}  // namespace ccm
