// Operators of an encoder's search; no algorithms.
#include <optional>
#include <vector>

#include "search/moves.h"
#include "torch/interruptible.h"
#include "torch/ops_common.h"

namespace {

using namespace ccm_ops;

Tensor move_symbols(Tensor symbols, Tensor offset, Tensor row, Tensor slope, Tensor curvature, Tensor contexts,
                    Tensor drawn, Tensor bits, Tensor lo, Tensor escape, Tensor start, Tensor least,
                    std::optional<Tensor> shifts, double farthest, int64_t threads) {
  check_tensor(symbols, ScalarType::Int, {-1, -1, -1, -1}, "symbols");
  const std::vector<int64_t> shape{symbols.size(0), symbols.size(1), symbols.size(2), symbols.size(3)};
  check_tensor(offset, ScalarType::Short, shape, "offset");
  check_tensor(row, ScalarType::Short, shape, "row");
  check_tensor(slope, ScalarType::Float, shape, "slope");
  check_tensor(contexts, ScalarType::Float, shape, "contexts");
  check_tensor(drawn, ScalarType::Bool, {shape[1], shape[2], shape[3]}, "drawn");
  const bool everywhere = curvature.dim() == 4 && (curvature.size(1) > 1 || curvature.size(2) > 1);
  check_tensor(curvature, ScalarType::Float, everywhere ? shape : std::vector<int64_t>{shape[0], 1, 1, shape[3]},
               "curvature");
  check_tensor(bits, ScalarType::Float, {-1}, "bits");
  check_tensor(start, ScalarType::Int, {-1}, "start");
  const int64_t rows = start.size(0);
  check_tensor(lo, ScalarType::Int, {rows}, "lo");
  check_tensor(escape, ScalarType::Int, {rows}, "escape");
  check_tensor(least, ScalarType::Float, {rows}, "least");
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = data<int32_t>(start)[r], last = first + data<int32_t>(escape)[r];
    check(0 <= first && first <= last && last < bits.size(0), "rows leave the table");
  }
  int64_t reach = 0;
  if (shifts) {
    check_tensor(*shifts, ScalarType::Float, {rows, -1}, "shifts");
    check(shifts->size(1) % 2 == 1, "shifts must have a middle");
    reach = shifts->size(1) / 2;
  }
  const int64_t sizes[] = {shape[0], shape[1], shape[2], shape[3]};
  Tensor moved = torch::stable::new_empty(slope, {sizes, 4});
  ccm::MoveArgs a{};
  a.tables = {data<float>(bits),
              data<int32_t>(lo),
              data<int32_t>(escape),
              data<int32_t>(start),
              data<float>(least),
              static_cast<int32_t>(rows),
              shifts ? data<float>(*shifts) : nullptr,
              static_cast<int32_t>(reach),
              static_cast<float>(farthest)};
  a.batch = shape[0], a.height = shape[1], a.width = shape[2], a.channels = shape[3];
  a.symbols = data<int32_t>(symbols);
  a.offset = data<int16_t>(offset), a.row = data<int16_t>(row);
  a.slope = data<float>(slope), a.curvature = data<float>(curvature), a.curved_everywhere = everywhere;
  a.contexts = data<float>(contexts), a.drawn = data<bool>(drawn), a.moved = data<float>(moved);
  check(ccm::move_symbols(a, thread_count(threads)), "a row is out of range");
  return moved;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ccm_fast, m) {
  m.def(
      "move_symbols(Tensor symbols, Tensor offset, Tensor row, Tensor slope, Tensor curvature, Tensor contexts, Tensor "
      "drawn, Tensor bits, Tensor lo, Tensor escape, Tensor start, Tensor least, Tensor? shifts, float farthest, int "
      "threads) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CPU, m) { m.impl("move_symbols", CCM_INTERRUPTIBLE(move_symbols)); }
