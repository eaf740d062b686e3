// One group of one image: its dense part, its steps, and the planes they share.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "entropy/cpu/conv_cpu.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/plane.h"
#include "entropy/cpu/rans_kernels.h"
#include "model/model.h"
#include "model/step_order.h"

namespace ccm {

inline const Kernels& kernels_of(const PackedModel& m) { return *kernels_for(static_cast<Isa>(m.isa)); }

// What the rANS decoder may use beside these kernels: scalar ones are for runs without any vector instructions of ours.
inline Vectors rans_vectors(const Kernels& k) { return k.isa == kIsaScalar ? Vectors::kNone : Vectors::kBest; }

// Where a group's channels at the p-th position of the coding order lie in a plane [h][w][M].
inline int64_t place(const PackedModel& m, const GroupDesc& d, const StepOrder& order, size_t p, int32_t w) {
  return (static_cast<int64_t>(order.row[p]) * w + order.col[p]) * m.latent_channels + d.first_channel;
}

// Latents of a group at one position, as contexts see them.
void put_y(const PackedModel& m, const GroupDesc& d, Plane& plane, int32_t i, int32_t j, const int16_t* values);

// Buffers of one thread for the positions of a tile.
struct StepScratch {
  std::vector<int32_t> acc;
  std::vector<uint8_t> hidden[2];
};

class Group {
 public:
  Group(const PackedModel& m, const Kernels& k, int32_t index, int32_t h, int32_t w);

  // A run of rows of one layer of the dense part.
  struct DenseTask {
    int32_t layer, first, last;
  };

  // Claims the next rows that can be computed once `earlier_rows` rows of the earlier groups are complete, at most
  // `chunk` of them (fewer than `least` only at the end of the plane), and of the base none from row `end` on, which
  // lies at least `least` rows behind what steps wait for. The deepest layer comes first: it is the one that others
  // wait for. Not thread-safe; what it hands out may be run by any thread, several at once.
  bool claim_dense(int32_t earlier_rows, int32_t chunk, int32_t least, int32_t end, DenseTask& task);
  // Computes a claimed task. `context` holds the earlier groups, `psi` is [h][w][P].
  void run_dense(const DenseTask& task, const Plane& context, const uint8_t* psi);
  // Marks it as done; not thread-safe.
  void complete_dense(const DenseTask& task);
  int32_t channels() const { return d_.channels; }
  // Complete rows of the base.
  int32_t dense_rows() const { return done_.back(); }
  // Everything at once.
  void all_dense(const Plane& context, const uint8_t* psi);

  // Encoders only, after all_dense: adds the masked convolution of the group's own latents, which `context` holds, to
  // every base. Steps then read bases alone. Does nothing without a Winograd path.
  void all_own(const Plane& context);

  // Rows of the tables and offsets (residual models: mean codes) of all symbols of `count` positions:
  // out_rows/out_offsets [count][channels]. first_part: the first part of the own context that the base does not hold.
  void parameters(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t first_part,
                  StepScratch& scratch, uint16_t* out_rows, int16_t* out_offsets) const;

  // Part `part` of the own context comes to the bases of `count` positions.
  void add_part(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t part) const;

  // Before step s of a run of steps that ends before `end`: the steps from s on whose bases are to have add_part() of a
  // part that is there early, [s, result); none where they have it already. Not thread-safe.
  int32_t claim_part(const StepOrder& order, int32_t s, int32_t end, int32_t part);

  // What may be given back of the base, since the steps have passed the rows before `row`, and of the feature plane
  // that a layer reads. Not thread-safe.
  [[nodiscard]] Pages drop_base(int32_t row) { return dropped_.to(base_.get(), base_bytes(h_), base_bytes(row)); }
  [[nodiscard]] Pages drop_features(int32_t layer) {
    return layer > 0 ? features_[layer - 1].drop_to(done_[layer] - kBorder) : Pages{};
  }

  // What only this group needs.
  struct Memory {
    std::unique_ptr<int32_t[]> base;
    std::vector<Plane> features;
  };
  // The group is finished: takes it away from here.
  Memory release() { return {std::move(base_), std::move(features_)}; }

 private:
  void tile(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t first_part,
            StepScratch& scratch, uint16_t* out_rows, int16_t* out_offsets) const;
  // acc [count][base_pad] = bases plus the parts of the own context from first_part on.
  void context_sums(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t first_part,
                    int32_t* acc) const;
  // Where the taps of the own context lie in a plane, and the first one of each part.
  struct Window {
    int32_t offset[kMaxTaps], first[kParts];
  };
  Window window(const Plane& context) const;
  const uint8_t* context_weights(int32_t tap) const;  // of a part that begins with this tap
  int32_t context_depth() const { return (d_.channels + 3) / 4 * 4; }
  int32_t* base_at(int32_t i, int32_t j) const {
    return base_.get() + (static_cast<int64_t>(i) * w_ + j) * d_.base_pad;
  }
  // The elements of a relu8 or leaky8 layer.
  void bytes(const RequantizeArgs& block, int32_t output, int64_t below, int32_t zero, void* out) const;
  // Rows and offsets from rescaled heads [count][pad].
  void choose(const int32_t* heads, int32_t pad, int32_t count, uint16_t* rows, int16_t* offsets) const;
  void hyper_rows(const uint8_t* psi, int32_t first, int32_t last);
  size_t base_bytes(int32_t rows) const { return static_cast<size_t>(rows) * w_ * d_.base_pad * sizeof(int32_t); }

  const PackedModel& m_;
  const Kernels& k_;
  const GroupDesc& d_;
  int32_t h_, w_;
  std::unique_ptr<int32_t[]> base_;  // [h][w][base_pad]
  Dropped dropped_;                  // of the base
  bool own_added_ = false;           // all_own
  int32_t part_until_[kParts] = {};  // the first step (Schedule::step) whose bases lack a part
  std::vector<Plane> features_;      // outputs of the stack's layers but the last
  // Of each feature plane, and last of the base:
  std::vector<int32_t> claimed_, done_;      // rows handed out; rows complete from the top
  std::vector<std::vector<uint8_t>> ready_;  // which rows are complete
};

}  // namespace ccm
