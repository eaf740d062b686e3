// A packed model: one relocatable block of bytes that the engine reads through offsets. No pointers inside, so that it
// can live in a tensor, be shared by threads and copied.
#pragma once
#include <cstdint>
#include <type_traits>

#include "format/schedule.h"
#include "format/tables.h"

namespace ccm {

constexpr uint32_t kPackedMagic = 0x4b504343;  // "CCPK"
constexpr int kMaxGroups = 32;
constexpr int kMaxLayers = 8;
// Planes carry a border of zeros this wide, so that no convolution (kernel <= 7) tests for the plane's edge.
constexpr int kBorder = 3;

enum Output : int32_t { kRelu8 = 0, kAccumulate = 1, kHead = 2, kLeaky8 = 3 };

// One convolution. Channels of its input plane are padded to a multiple of 4, its outputs to `n_pad`.
struct ConvDesc {
  int32_t cin, cin_pad, cout, n_pad;
  int32_t kernel, upsample, output, is_signed;
  int64_t weights, bias, mult, shift;
  int64_t points;  // weights at Winograd's points (cpu/winograd_int.h); 0: none
  // leaky8 outputs: the byte that stands for 0, and the multipliers of negative accumulators. relu8: 0 and zeros.
  int32_t zero, in_zero;  // in_zero: the byte that stands for 0 in the input plane where elements are biased bytes
  int64_t below;
};

// Taps of a masked context in parts: values that a part reads are there kLead of its steps ahead or more.
constexpr int kParts = 3;
constexpr int32_t kLead[kParts] = {4, 2, 1};

struct GroupDesc {
  int32_t channels, first_channel;  // in y
  int32_t plane_channel;            // first channel in the padded context plane
  Schedule schedule;
  int32_t uniform_taps;  // every tap is available at every position: the encoder needs no steps
  int32_t taps, base_width, base_pad;
  int32_t tap_di[kMaxTaps], tap_dj[kMaxTaps];  // part by part
  int32_t part_taps[kParts];                   // all in the last one where kernels do not look ahead
  // Spatial context; each part's weights are those of a layer of its own, one after the other. base_init: what every
  // base starts from.
  int64_t weights, base_init, mult, shift;
  int64_t points;            // its weights at Winograd's points, as 3 rows of 5 taps; 0: none
  int32_t f_output, f_zero;  // kRelu8, kLeaky8, or kHead: pre is the head, no layers follow
  int64_t below;
  int32_t stack_layers, has_skip, hidden_layers;
  int32_t unused;
  ConvDesc hyper, skip, head;
  ConvDesc stack[kMaxLayers], hidden[kMaxLayers];
};

struct PackedRows {
  int64_t info, find, entries, below, buckets;
  int32_t count, unused;
};

struct PackedModel {
  uint32_t magic;
  int32_t isa;
  int64_t bytes;
  int32_t latent_channels, hyper_channels, groups, psi_channels;
  int32_t plane_channels;  // channels of the padded context plane: every group padded to a multiple of 4
  int32_t scale_codes;
  int32_t residual;        // y_hat in 1/16: 16 * symbol + mean code; otherwise whole numbers
  int32_t scaled_context;  // contexts see clamp(requantize(y_hat)) by channel of the padded context plane
  int64_t context_mult, context_shift;
  Schedule schedule;             // of the first group, and of all where own_schedules is 0
  int32_t own_schedules;         // groups have schedules of their own
  int32_t uniform_taps;          // every group's are
  int32_t skip_rows;             // symbols of y with smaller rows are not coded; 0: all are
  int32_t z_coded;               // channels of z that are coded
  int64_t z_channels, z_values;  // uint16: their numbers; int16 [hyper_channels]: what the others are
  int32_t hs_layers;
  int32_t unused;
  ConvDesc hs[kMaxLayers];
  ScaleRow scale_rows[kNumScales];
  int64_t scale_table;    // uint8 [scale_codes]
  int64_t scale_choices;  // int32 [scale_codes]: first_row << kScaleBits | bits of each code's row
  PackedRows y_rows, z_rows;
  GroupDesc group[kMaxGroups];

  // Of streams.
  int32_t least_version() const { return skip_rows || z_coded < hyper_channels || own_schedules ? 2 : 1; }

  template <class T>
  const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + offset);
  }
  Rows rows(const PackedRows& r) const {
    return {at<RowInfo>(r.info),   at<RowFind>(r.find),   at<uint32_t>(r.entries),
            at<uint16_t>(r.below), at<Bucket>(r.buckets), r.count};
  }
};

// A model's bytes are compared and hashed: equal plans must pack to equal ones, so nothing may be padding.
static_assert(std::has_unique_object_representations_v<PackedModel>);

}  // namespace ccm
