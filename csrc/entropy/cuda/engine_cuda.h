// The entropy path on a GPU: what the operators (and, on the emulator, the tests) call. No torch, no allocation, no
// synchronisation: work is queued on the caller's stream, into memory that the caller provides. All pointers are device
// pointers unless said otherwise. Results are those of the CPU engine, bit for bit.
#pragma once
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "entropy/cuda/device.h"
#include "entropy/cuda/model_cuda.h"

namespace ccm {

constexpr int kMaxRadius = kBorder;  // of a convolution

// The coding orders of a model's groups in planes of one size, computed on the host and uploaded once; see OrderView.
std::vector<int32_t> build_order(const DeviceModel& host, int32_t h, int32_t w);

// Of one group.
struct GroupOrder {
  int32_t steps;
  int32_t gaps;  // whether some numbers of steps have no position: neighbouring steps then differ by more than one
  const uint32_t* positions;  // [h * w] i << 16 | j, in coding order
  const int32_t* first;       // [steps + 1] first position of each step
  const int32_t* sequence;    // [tiles] tiles (row << 16 | column) of the dense part, by the step that completes them
  const int32_t* needs;       // [kMaxRadius + 1][tiles] steps that must be done before a convolution of that radius
};

// Where the parts of the orders' numbers lie.
struct OrderView {
  int32_t tiles_i, tiles_j;
  const int32_t* numbers;

  // On the device: numbers are read.
  CCM_HD GroupOrder of(int32_t group) const {
    const int32_t* at = numbers + numbers[kTable + group];
    return {at[0],           at[1],           reinterpret_cast<const uint32_t*>(numbers + at[2]),
            numbers + at[3], numbers + at[4], numbers + at[5]};
  }
  static constexpr int32_t kTable = 4;  // behind the header: where each group's record lies
};
// `header`: the first kOrderHeader numbers, on the host; `numbers`: all of them, on the device.
constexpr int kOrderHeader = OrderView::kTable;
OrderView view_order(const int32_t* header, const int32_t* numbers);

// How to run: 0 means the best for the device.
struct LaunchOptions {
  int32_t threads = 0;  // of a block, a multiple of 32
  int32_t blocks = 0;   // of the persistent kernel
  int32_t shared = -1;  // bytes of shared memory that a block may take, -1: all there is
  int32_t crew = -1;    // blocks that compute a group's networks: slots << 8 | parts, -1: as pays, 0: none
};

// Memory for intermediate results, in bytes.
int64_t hyper_scratch(const DeviceModel& host, int32_t batch, int32_t hz, int32_t wz);
int64_t latents_scratch(const DeviceModel& host, int32_t batch, int32_t h, int32_t w, const LaunchOptions& options);

// z int16 [batch][hz][wz][N] of segments int64 [batch][3] (offset, length, lanes) of `data`; status int32 [batch].
cudaError_t decode_z(const DeviceModel* model, const uint8_t* data, int64_t size, const int64_t* segments,
                     int32_t batch, int32_t hz, int32_t wz, int16_t* z, int32_t* status, const LaunchOptions& options,
                     cudaStream_t stream);

// psi uint8 [batch][h][w][P].
cudaError_t hyper(const DeviceModel& host, const DeviceModel* model, const int16_t* z, int32_t batch, int32_t h,
                  int32_t w, uint8_t* psi, uint8_t* scratch, const LaunchOptions& options, cudaStream_t stream);

// What symbols stand for (ccm_fast/entropy/centroids.py): float behind the integer path, which nothing that is decoded
// depends on. `values`: as y; zeros in images that are not fine. Not for residual models.
struct Restoring {
  const float* shifts = nullptr;  // [rows of y][2 reach + 1]; null: not wanted
  int32_t reach = 0;
  float* values = nullptr;
};

// y int16 [batch][h][w][M] of segments int64 [batch][G][3]; status int32 [batch]: of the first group that is not fine.
cudaError_t decode_y(const DeviceModel& host, const DeviceModel* model, const OrderView& order, const uint8_t* psi,
                     const uint8_t* data, int64_t size, const int64_t* segments, int32_t batch, int32_t h, int32_t w,
                     int16_t* y, int32_t* status, const Restoring& restoring, uint8_t* scratch,
                     const LaunchOptions& options, cudaStream_t stream);

// Streams. `y`: int16, or in residual models int32 in 1/256 units, [batch][h][w][M]; `y_hat` int16: what a decoder will
// find. Bytes of stream s lie from s * capacity on; segments as above; status kDamaged: a value that cannot be coded.
struct EncodeBuffers {
  uint8_t* data;     // of y: null where y_hat alone is wanted
  int64_t capacity;  // of a stream, see stream_capacity()
  int64_t* segments;
  int32_t* status;  // [batch]
};
int64_t stream_capacity(int64_t symbols);
int64_t encode_y_scratch(const DeviceModel& host, int32_t batch, int32_t h, int32_t w, const LaunchOptions& options);
cudaError_t encode_y(const DeviceModel& host, const DeviceModel* model, const OrderView& order, const uint8_t* psi,
                     const void* y, int32_t batch, int32_t h, int32_t w, int32_t lanes, int16_t* y_hat,
                     const EncodeBuffers& out, uint8_t* scratch, const LaunchOptions& options, cudaStream_t stream);
cudaError_t encode_z(const DeviceModel* model, const int16_t* z, int32_t batch, int32_t hz, int32_t wz, int32_t lanes,
                     const EncodeBuffers& out, cudaStream_t stream);

}  // namespace ccm
