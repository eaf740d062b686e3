// Operators of an encoder's search; no algorithms.
#include <optional>
#include <vector>

#include "search/cells.h"
#include "search/moves.h"
#include "torch/interruptible.h"
#include "torch/ops_common.h"

namespace {

using namespace ccm_ops;

// Of code lengths alone.
ccm::MoveTables code_lengths(const Tensor& bits, const Tensor& lo, const Tensor& escape, const Tensor& start) {
  check_tensor(bits, ScalarType::Float, {-1}, "bits");
  check_tensor(start, ScalarType::Int, {-1}, "start");
  const int64_t rows = start.size(0);
  check_tensor(lo, ScalarType::Int, {rows}, "lo");
  check_tensor(escape, ScalarType::Int, {rows}, "escape");
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = data<int32_t>(start)[r], last = first + data<int32_t>(escape)[r];
    check(0 <= first && first <= last && last < bits.size(0), "rows leave the table");
  }
  ccm::MoveTables t{};
  t.bits = data<float>(bits);
  t.lo = data<int32_t>(lo);
  t.escape = data<int32_t>(escape);
  t.start = data<int32_t>(start);
  t.rows = static_cast<int32_t>(rows);
  return t;
}

// Float64 [B].
Tensor coded_bits(Tensor symbols, Tensor offset, Tensor row, Tensor bits, Tensor lo, Tensor escape, Tensor start,
                  int64_t threads) {
  check_tensor(symbols, ScalarType::Int, {-1, -1, -1, -1}, "symbols");
  const std::vector<int64_t> shape{symbols.size(0), symbols.size(1), symbols.size(2), symbols.size(3)};
  check_tensor(offset, ScalarType::Short, shape, "offset");
  check_tensor(row, ScalarType::Short, shape, "row");
  const ccm::MoveTables tables = code_lengths(bits, lo, escape, start);
  Tensor sums = torch::stable::new_empty(symbols, {shape.data(), 1}, ScalarType::Double);
  check(ccm::coded_bits(tables, data<int32_t>(symbols), data<int16_t>(offset), data<int16_t>(row), shape[0],
                        shape[1] * shape[2] * shape[3], data<double>(sums), thread_count(threads)),
        "a row is out of range");
  return sums;
}

Tensor move_symbols(Tensor symbols, Tensor offset, Tensor row, Tensor slope, Tensor curvature, Tensor contexts,
                    Tensor turn, Tensor bits, Tensor lo, Tensor escape, Tensor start, Tensor least,
                    std::optional<Tensor> shifts, double farthest, int64_t threads) {
  check_tensor(symbols, ScalarType::Int, {-1, -1, -1, -1}, "symbols");
  const std::vector<int64_t> shape{symbols.size(0), symbols.size(1), symbols.size(2), symbols.size(3)};
  check_tensor(offset, ScalarType::Short, shape, "offset");
  check_tensor(row, ScalarType::Short, shape, "row");
  check_tensor(slope, ScalarType::Float, shape, "slope");
  check_tensor(contexts, ScalarType::Float, shape, "contexts");
  check_tensor(turn, ScalarType::Bool, {shape[1], shape[2], shape[3]}, "turn");
  const bool everywhere = curvature.dim() == 4 && (curvature.size(1) > 1 || curvature.size(2) > 1);
  check_tensor(curvature, ScalarType::Float, everywhere ? shape : std::vector<int64_t>{shape[0], 1, 1, shape[3]},
               "curvature");
  ccm::MoveArgs a{};
  a.tables = code_lengths(bits, lo, escape, start);
  const int64_t rows = a.tables.rows;
  check_tensor(least, ScalarType::Float, {rows}, "least");
  int64_t reach = 0;
  if (shifts) {
    check_tensor(*shifts, ScalarType::Float, {rows, -1}, "shifts");
    check(shifts->size(1) % 2 == 1, "shifts must have a middle");
    reach = shifts->size(1) / 2;
  }
  const int64_t sizes[] = {shape[0], shape[1], shape[2], shape[3]};
  Tensor moved = torch::stable::new_empty(slope, {sizes, 4});
  a.tables.least = data<float>(least);
  a.tables.shifts = shifts ? data<float>(*shifts) : nullptr;
  a.tables.reach = static_cast<int32_t>(reach);
  a.tables.farthest = static_cast<float>(farthest);
  a.batch = shape[0], a.height = shape[1], a.width = shape[2], a.channels = shape[3];
  a.symbols = data<int32_t>(symbols);
  a.offset = data<int16_t>(offset), a.row = data<int16_t>(row);
  a.slope = data<float>(slope), a.curvature = data<float>(curvature), a.curved_everywhere = everywhere;
  a.contexts = data<float>(contexts), a.turn = data<bool>(turn), a.moved = data<float>(moved);
  check(ccm::move_symbols(a, thread_count(threads)), "a row is out of range");
  return moved;
}

// Cells [B, H, W, 48] become the gradient, and so does fine [B, H / f, W / f, f * f * 48]; errors float32 [B].
Tensor cell_errors(Tensor cells, std::optional<Tensor> fine, Tensor wanted, std::optional<Tensor> weights,
                   int64_t threads) {
  check_tensor(cells, ScalarType::Float, {-1, -1, -1, 48}, "cells");
  const int64_t batch = cells.size(0), height = cells.size(1), width = cells.size(2);
  check(wanted.dim() == 5 && (wanted.size(3) == 1 || wanted.size(3) == 3), "wanted must have 1 or 3 colours");
  check_tensor(wanted, ScalarType::Float, {batch, height, width, wanted.size(3), 16}, "wanted");
  int64_t factor = 1;
  if (fine) {
    check(fine->dim() == 4 && fine->size(1) >= 1, "fine has the wrong number of dimensions");
    factor = height / fine->size(1);
    check(factor >= 1 && height % factor == 0 && width % factor == 0, "fine does not divide the cells");
    check_tensor(*fine, ScalarType::Float, {batch, height / factor, width / factor, factor * factor * 48}, "fine");
  }
  Tensor errors = torch::stable::new_empty(cells, {&batch, 1});
  std::vector<double> sums(static_cast<size_t>(batch));
  ccm::cell_errors(
      {batch, height, width, data<float>(cells), fine ? data<float>(*fine) : nullptr, static_cast<int32_t>(factor),
       data<float>(wanted), optional_data(weights, {batch, height, width, 16}, "weights"), wanted.size(3) == 1},
      sums.data(), thread_count(threads));
  for (int64_t b = 0; b < batch; ++b) data<float>(errors)[b] = static_cast<float>(sums[static_cast<size_t>(b)]);
  return errors;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ccm_fast, m) {
  m.def(
      "move_symbols(Tensor symbols, Tensor offset, Tensor row, Tensor slope, Tensor curvature, Tensor contexts, Tensor "
      "turn, Tensor bits, Tensor lo, Tensor escape, Tensor start, Tensor least, Tensor? shifts, float farthest, int "
      "threads) -> Tensor");
  m.def(
      "coded_bits(Tensor symbols, Tensor offset, Tensor row, Tensor bits, Tensor lo, Tensor escape, Tensor start, int "
      "threads) -> Tensor");
  m.def("cell_errors(Tensor(a!) cells, Tensor(b!)? fine, Tensor wanted, Tensor? weights, int threads) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) {
  m.impl("move_symbols", CCM_INTERRUPTIBLE(move_symbols));
  m.impl("coded_bits", CCM_INTERRUPTIBLE(coded_bits));
  m.impl("cell_errors", CCM_INTERRUPTIBLE(cell_errors));
}
