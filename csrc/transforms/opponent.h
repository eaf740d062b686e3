// Colours as the picture filter tells them apart (FORMAT.md, section 8).
#pragma once
#include <cmath>
#include <cstdint>

namespace ccm {

// Rows of an orthonormal matrix: lightness, red against blue, and green against both. Grey has the first alone, of one
// colour.
class Opponent {
 public:
  explicit Opponent(int32_t colours) : colours_(colours) {}

  double operator()(int32_t row, int32_t column) const {
    if (colours_ == 1) return 1;
    constexpr double kRows[3][3] = {{1, 1, 1}, {1, 0, -1}, {1, -2, 1}};
    constexpr double kSquares[3] = {3, 2, 6};
    return kRows[row][column] / std::sqrt(kSquares[row]);
  }

 private:
  int32_t colours_;
};

}  // namespace ccm
