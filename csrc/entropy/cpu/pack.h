// Plan bytes (FORMAT.md, section 7) -> packed model.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "entropy/cpu/kernels.h"
#include "model/layout.h"
#include "model/model.h"
#include "model/rows.h"

namespace ccm {

// Reads, checks and lays out a plan for one instruction set. Throws PlanError.
std::vector<uint8_t> pack_plan(const uint8_t* plan, size_t size, const Kernels& kernels);

// The same for kernels of another engine, which have neither products at Winograd's points nor parts of contexts.
std::vector<uint8_t> pack_plan(const uint8_t* plan, size_t size, const Layout& layout);

// The header of a packed model, or a PlanError when the bytes are not one or need an instruction set that is missing.
const PackedModel& open_packed(const void* data, size_t size);

}  // namespace ccm
