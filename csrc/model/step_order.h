// The order in which positions are coded: the wavefront of a schedule on a plane.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "format/schedule.h"
#include "model/model.h"

namespace ccm {

// Positions in coding order and the dependencies between rows and steps, of groups with one schedule and images of one
// size.
struct StepOrder {
  std::vector<int32_t> row, col;  // of every position, in coding order
  std::vector<int32_t> first;     // [steps + 1] first position of each non-empty step
  std::vector<int32_t> number;    // [steps] Schedule::step of each of them
  std::vector<int32_t>
      needs_rows;  // [steps] rows of the dense part that steps 0 .. s read: rows 0 .. needs_rows[s] - 1
  std::vector<int32_t> needs_columns;  // [steps] and columns
  std::vector<int32_t> rows_done;      // [steps + 1] rows that are complete after s steps

  StepOrder(const Schedule& schedule, int32_t h, int32_t w);
  int32_t steps() const { return static_cast<int32_t>(first.size()) - 1; }
  int32_t positions(int32_t step) const { return first[step + 1] - first[step]; }
  // Symbols of every step of a group with so many channels.
  std::vector<int32_t> symbols(int32_t channels) const;
};

// Those of all groups of planes of one size; groups with equal schedules have one in common.
std::vector<std::shared_ptr<const StepOrder>> step_orders(const PackedModel& m, int32_t h, int32_t w);

}  // namespace ccm
