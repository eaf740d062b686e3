// Arguments of the kernels that code whole streams.
#pragma once
#include <cstdint>

#include "entropy/cuda/engine_cuda.h"
#include "format/rans.h"

namespace ccm {

struct DecodeZArgs {
  const DeviceModel* model;
  const uint8_t* data;
  int64_t size;
  const int64_t* segments;
  int16_t* z;
  int32_t* status;
  int32_t batch;
  int32_t positions;  // of an image
};

struct RestoreArgs {
  const int16_t* y;
  const int32_t* status;
  const float* shifts;
  float* values;  // at first their places among the shifts, int32
  int32_t batch;
  int64_t count;  // of an image
};

struct EncodeArgs {
  const DeviceModel* model;
  OrderView order;        // y
  const uint64_t* coded;  // y: see LatentsArgs; null: z, one step
  const int32_t* ends;
  const int16_t* z;
  int32_t positions;     // of an image
  int32_t batch, lanes;  // as streams are named, see kVersion2
  LaneRule rule;         // for streams of version 2 without a number of lanes
  const int32_t* skip;   // [batch] status of images that cannot be coded, or null
  EncodeBuffers out;
};

}  // namespace ccm
