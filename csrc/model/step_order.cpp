#include "model/step_order.h"

#include <algorithm>
#include <numeric>

namespace ccm {

StepOrder::StepOrder(const Schedule& schedule, int32_t h, int32_t w) {
  const int64_t n = static_cast<int64_t>(h) * w;
  std::vector<int32_t> step(n), order(n);
  int32_t last = 0;
  for (int32_t i = 0; i < h; ++i)
    for (int32_t j = 0; j < w; ++j) last = std::max(last, step[static_cast<int64_t>(i) * w + j] = schedule.step(i, j));
  // Counting sort keeps raster order inside a step.
  std::vector<int64_t> start(static_cast<size_t>(last) + 2);
  for (int32_t s : step) ++start[s + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  std::vector<int64_t> at(start.begin(), start.end() - 1);
  for (int64_t p = 0; p < n; ++p) order[at[step[p]]++] = static_cast<int32_t>(p);
  row.resize(n);
  col.resize(n);
  for (int64_t p = 0; p < n; ++p) row[p] = order[p] / w, col[p] = order[p] % w;
  first.push_back(0);
  for (size_t s = 0; s + 1 < start.size(); ++s)
    if (start[s + 1] > start[s]) {
      first.push_back(static_cast<int32_t>(start[s + 1]));
      number.push_back(static_cast<int32_t>(s));
    }

  needs_rows.resize(steps());
  needs_columns.resize(steps());
  rows_done.assign(steps() + 1, 0);
  std::vector<int32_t> left(h, w);
  int32_t need = 0, need_columns = 0, done = 0;
  for (int32_t s = 0; s < steps(); ++s) {
    for (int32_t p = first[s]; p < first[s + 1]; ++p) {
      need = std::max(need, row[p] + 1);
      need_columns = std::max(need_columns, col[p] + 1);
      --left[row[p]];
    }
    while (done < h && left[done] == 0) ++done;
    needs_rows[s] = need;
    needs_columns[s] = need_columns;
    rows_done[s + 1] = done;
  }
}

std::vector<int32_t> StepOrder::symbols(int32_t channels) const {
  std::vector<int32_t> n(steps());
  for (int32_t s = 0; s < steps(); ++s) n[s] = positions(s) * channels;
  return n;
}

std::vector<std::shared_ptr<const StepOrder>> step_orders(const PackedModel& m, int32_t h, int32_t w) {
  std::vector<std::shared_ptr<const StepOrder>> orders(m.groups);
  for (int32_t g = 0; g < m.groups; ++g) {
    for (int32_t other = 0; other < g; ++other)
      if (same(m.group[g].schedule, m.group[other].schedule)) orders[g] = orders[other];
    if (!orders[g]) orders[g] = std::make_shared<const StepOrder>(m.group[g].schedule, h, w);
  }
  return orders;
}

}  // namespace ccm
