#include "codec/code_length.h"

#include <algorithm>
#include <cmath>

#include "format/code_length.h"

namespace ccm {

CodeLength::CodeLength(const Rows& rows) : rows_(rows) {
  for (int32_t r = 0; r < rows.count; ++r) {
    const RowInfo& row = rows.info[r];
    bits_.resize(std::max<size_t>(bits_.size(), row.first + row.count));
    for (uint32_t k = row.first; k < row.first + row.count; ++k)
      bits_[k] = static_cast<float>(kProbBits - std::log2(static_cast<double>(rows.entries[k] >> 16)));
  }
}

float CodeLength::operator()(int32_t row, int32_t symbol) const {
  const RowInfo& r = rows_.info[row];
  const int32_t entry = symbol - r.lo, escape = r.count - 1;
  if (entry >= 0 && entry < escape) return bits_[r.first + entry];
  return bits_[r.first + escape] + escape_bits(r.lo, r.count, symbol);
}

}  // namespace ccm
