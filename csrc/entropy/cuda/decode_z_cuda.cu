// z: one stream an image, one row of the tables a channel.
#include "entropy/cuda/kernels_cuda.h"
#include "entropy/cuda/product.cuh"
#include "entropy/cuda/rans_warp.cuh"

namespace ccm {

constexpr int32_t kBatchOfSymbols = 1024;  // prepared at once; a multiple of 32, so that rounds are not broken

// Grid: images. Blocks of at least two warps.
__global__ void __launch_bounds__(kMaxThreads, 1) decode_z_kernel(const DecodeZArgs a) {
  CCM_SHARED(symbols, Symbol[kBatchOfSymbols + kMoreSymbols]);
  CCM_SHARED(modes, uint32_t[kBatchOfSymbols + kMoreSymbols]);
  CCM_SHARED(words, uint64_t[kMostSequences * kRingWords / 4]);
  uint16_t* const ring = reinterpret_cast<uint16_t*>(words);
  CCM_SHARED(bad, int32_t);
  const DeviceModel& m = *a.model;
  const RowTables rows(m, m.z_rows);
  const int32_t image = blockIdx.x, channels = m.z_coded;
  const int32_t* const coded = m.at<int32_t>(m.z_channels);
  int16_t* const z = a.z + static_cast<int64_t>(image) * a.positions * m.hyper_channels;
  CCM_SHARED(decoders, WarpDecoder[kMostSequences * 32]);
  const int32_t warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x & 31;
  int32_t sequences = 1;
  {
    const int64_t* segment = a.segments + static_cast<int64_t>(image) * 3;
    const int64_t offset = segment[0], size = segment[1];
    const bool inside = offset >= 0 && size >= 0 && offset <= a.size && size <= a.size - offset;
    const bool valid = inside && valid_streams(segment[2]);
    const int64_t code = valid ? segment[2] : 1;
    sequences = sequences_of(code);
    for (int32_t q = warp; q < sequences; q += warps) {
      WarpDecoder decoder;
      decoder.open(a.data + (valid ? offset : 0), valid ? size : 0, code, q, ring + q * kRingWords);
      decoders[q * 32 + lane] = decoder;
    }
  }
  // Channels that are not coded; no others are written here.
  const int32_t* const values = m.at<int32_t>(m.z_values);
#pragma unroll 1
  for (int32_t c = lane; c < m.hyper_channels; c += 32)
    if (const int32_t value = values[c]; value != kCodedChannel)
#pragma unroll 1
      for (int32_t p = warp; p < a.positions; p += warps)
        z[static_cast<int64_t>(p) * m.hyper_channels + c] = static_cast<int16_t>(value);
  // The channel of this thread's next symbol, among those that are coded.
  const auto modulo = [&](uint32_t n) { return static_cast<int32_t>(n - quotient(n, m.per_coded_channel) * channels); };
  const int32_t stride = modulo(blockDim.x);
  int32_t channel = modulo(threadIdx.x);
  __syncthreads();  // where nothing is coded, none other follows before the decoders are asked how they ended
  const int32_t all = a.positions * channels;
  for (int32_t first = 0; first < all; first += kBatchOfSymbols) {
    const int32_t count = min(kBatchOfSymbols, all - first);
#pragma unroll 1
    for (int32_t n = threadIdx.x; n < kBatchOfSymbols; n += blockDim.x) {
      const RowWindow& row = rows.windows[coded[channel]];
      symbols[n] = {row.key, row.lo_mode};
      modes[n] = row.mode;
      channel += stride;
      if (channel >= channels) channel -= channels;
    }
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < kMoreSymbols; i += blockDim.x) {
      symbols[kBatchOfSymbols + i] = {rows.windows[0].key, 0};
      modes[kBatchOfSymbols + i] = kNever;
    }
    if (threadIdx.x == 0) bad = 0;
    __syncthreads();
    for (int32_t q = warp; q < sequences; q += warps) {
      WarpDecoder decoder = decoders[q * 32 + lane];
      const int32_t own = symbols_of_sequence(count, sequences, q);
      const int32_t at = q * kSequenceLanes;
      if (own && decoder.bad() == kOk) decoder.decode(rows, symbols + at, modes + at, own, 1, ring + q * kRingWords);
      if (lane == 0 && decoder.bad() != kOk) atomicExch(&bad, 1);
      decoders[q * 32 + lane] = decoder;
    }
    __syncthreads();
#pragma unroll 1
    for (int32_t n = threadIdx.x; n < count; n += blockDim.x) {
      const int32_t position = quotient(first + n, m.per_coded_channel);
      z[static_cast<int64_t>(position) * m.hyper_channels + coded[first + n - position * channels]] =
          static_cast<int16_t>(symbols[n].value);
    }
    const bool stop = bad;
    __syncthreads();
    if (stop) break;
  }
  if (warp == 0) {
    Status status = kOk;
    for (int32_t q = 0; q < sequences; ++q) {
      const Status own = decoders[q * 32 + lane].finish();
      if (status == kOk) status = own;
    }
    if (lane == 0) a.status[image] = status;
  }
}

cudaError_t launch_decode_z(const DecodeZArgs& a, int32_t threads, cudaStream_t stream) {
  return launch(decode_z_kernel, dim3(a.batch), dim3(threads), 0, stream, false, a);
}

}  // namespace ccm
