// One group of one image: its dense part, its steps, and the planes they share.
#pragma once
#include <cstdint>
#include <vector>

#include "ccm/model.h"
#include "cpu/conv_cpu.h"
#include "cpu/kernels.h"
#include "cpu/plane.h"

namespace ccm {

// Positions in coding order and the dependencies between rows and steps, shared by all groups and images of one size.
struct StepOrder {
  std::vector<int32_t> row, col;  // of every position, in coding order
  std::vector<int32_t> first;     // [steps + 1] first position of each non-empty step
  std::vector<int32_t>
      needs_rows;                  // [steps] rows of the dense part that steps 0 .. s read: rows 0 .. needs_rows[s] - 1
  std::vector<int32_t> rows_done;  // [steps + 1] rows that are complete after s steps

  StepOrder(const Schedule& schedule, int32_t h, int32_t w);
  int32_t steps() const { return static_cast<int32_t>(first.size()) - 1; }
};

// Buffers of one thread for the positions of a tile.
struct StepScratch {
  std::vector<int32_t> acc;
  std::vector<uint8_t> hidden[2];
};

class Group {
 public:
  Group(const PackedModel& m, const Kernels& k, int32_t index, int32_t h, int32_t w);

  // Advances the dense part as far as `earlier_rows` complete rows of the earlier groups allow (h: all). Returns
  // whether anything was done. `context` holds the earlier groups, `psi` is [h][w][P].
  bool advance_dense(const Plane& context, const uint8_t* psi, int32_t earlier_rows);
  // Rows of the base that advance_dense(earlier_rows) would reach.
  int32_t dense_reach(int32_t earlier_rows) const;
  int32_t dense_rows() const { return rows_.back(); }

  // Rows of the tables and offsets of all symbols of `count` positions: out_rows/out_offsets [count][channels].
  void parameters(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, StepScratch& scratch,
                  uint16_t* out_rows, int16_t* out_offsets) const;

  // Frees what only this group needs; it is finished.
  void release() {
    std::vector<int32_t>().swap(base_);
    features_.clear();
  }

 private:
  void tile(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, StepScratch& scratch,
            uint16_t* out_rows, int16_t* out_offsets) const;
  void hyper_rows(const uint8_t* psi, int32_t first, int32_t last);

  const PackedModel& m_;
  const Kernels& k_;
  const GroupDesc& d_;
  int32_t h_, w_;
  std::vector<int32_t> base_;    // [h][w][base_pad]
  std::vector<Plane> features_;  // outputs of the stack's layers but the last
  std::vector<int32_t> rows_;    // rows done: of each feature plane, and last of the base
};

}  // namespace ccm
