// Where latents go once they are known.
#pragma once
#include "entropy/cuda/plane.cuh"
#include "format/fixed_point.h"
#include "format/symbol.h"

namespace ccm {

// Where a coded symbol belongs.
struct alignas(8) Target {
  uint32_t position;  // i << 16 | j
  int16_t offset;     // of its mean; residual models: its mean code
  uint16_t channel;   // of its group
};

// Where latents of a group go: to y, with the place of what they stand for if that is wanted, and into the context
// plane. What does not depend on the latent is looked up once: stores may alias anything, and nothing else would be
// kept.
struct Publisher {
  int16_t* y;       // of the group's first channel
  int32_t* places;  // null: not wanted
  int32_t reach, w, channels;
  uint8_t* context;  // of the group's first channel; null: it is not shown yet
  int32_t row_stride, stride;
  const int32_t *mult, *shift;  // mult null: the context is not scaled

  CCM_DEVICE void publish(const Target target, int32_t row, int32_t value) const {
    const auto position =
        static_cast<int32_t>((target.position >> 16) * static_cast<uint32_t>(w) + (target.position & 0xffff));
    int64_t at = static_cast<int64_t>(position) * channels + target.channel;
#if CCM_FAULT == 4
    ++at;
#endif
    y[at] = static_cast<int16_t>(value);
    if (places) places[at] = row * (2 * reach + 1) + clamp(value - target.offset, -reach, reach) + reach;
    if (context) show(target.position, target.channel, value);
  }

  CCM_DEVICE void show(uint32_t position, int32_t channel, int32_t value) const {
    if (mult) value = requantize(value, mult[channel], shift[channel]);
    const DevicePlane plane{context, row_stride, stride};
    plane.at(static_cast<int32_t>(position >> 16), static_cast<int32_t>(position & 0xffff))[channel] =
        static_cast<uint8_t>(clamp_context(value) + 128);
  }
};

}  // namespace ccm
