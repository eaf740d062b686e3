// The symbols of a step, once their rows and offsets are known.
#pragma once
#include <cstdint>

#include "entropy/cpu/batch_image.h"
#include "model/model.h"

namespace ccm {

// Decodes or encodes the symbols of step s of group g, whose rows and offsets are in the buffers, and puts what they
// stand for into the context and into the job's results; w: columns of the plane. False when a stream is damaged.
bool code_symbols(const PackedModel& m, const StepOrder& order, int32_t w, BatchImage& image, int32_t g, int32_t s,
                  StepBuffers& b);

// An encoder's stream of a group, after its last step; code: as that of encode_stream.
void write_stream(const PackedModel& m, const StepOrder& order, BatchImage& image, int32_t g, int32_t code);

}  // namespace ccm
