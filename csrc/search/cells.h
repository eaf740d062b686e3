// The error of decoded pictures and its gradient, where g_s ends: in cells of 4x4 pixels (ccm_fast/effort/gradient.py).
#pragma once
#include <cstdint>

namespace ccm {

// A cell's features are 3 colours of 16 pixels each; a pixel is a quarter of its feature, plus 1/2.
struct CellsArgs {
  int64_t batch, height, width;  // in cells
  float* cells;                  // [batch][height][width][48], which gradients take the place of
  float* fine;                   // what is added: [batch][height / factor][width / factor][factor][factor][48]; or null
  int32_t factor;                // of `fine`, which becomes their gradient, too
  const float* wanted;           // [batch][height][width][colours][16]
  const float* weights;          // of errors, [batch][height][width][16]; null: 1
  bool grey;                     // one colour is wanted, the mean of three
};

// errors: [batch], sums over pixels and 3 colours.
void cell_errors(const CellsArgs& a, double* errors, int threads);

}  // namespace ccm
