// What symbols cost in a file, by the tables that they are coded with.
#pragma once
#include <cstdint>
#include <vector>

#include "format/tables.h"

namespace ccm {

class CodeLength {
 public:
  explicit CodeLength(const Rows& rows);

  // Bits of a symbol without its offset; in single precision, which is enough to compare candidates by.
  float operator()(int32_t row, int32_t symbol) const;

 private:
  const Rows rows_;
  std::vector<float> bits_;  // of every entry of every row
};

}  // namespace ccm
