#include "search/cells.h"

#include <algorithm>
#include <vector>

#include "base/interrupt.h"
#include "base/threads.h"

namespace ccm {
namespace {

// Pixels of a cell and a colour.
constexpr int kPixels = 16, kColours = 3, kFeatures = kColours * kPixels;

// One cell: its features, which their gradient takes the place of; returns its error. weights: of its pixels, or null.
// Loops are over pixels at last, so that the compiler makes vectors of them.
template <bool kGrey>
float one_cell(float* cell, const float* more, const float* wanted, const float* weights) {
  float x[kFeatures], cut[kFeatures], errors[kPixels] = {};
  for (int k = 0; k < kFeatures; ++k) x[k] = (more ? cell[k] + more[k] : cell[k]) * 0.25f + 0.5f;
  for (int k = 0; k < kFeatures; ++k) cut[k] = std::min(std::max(x[k], 0.0f), 1.0f);
  if constexpr (kGrey)  // the error of each colour is that of their mean
    for (int p = 0; p < kPixels; ++p)
      cut[p] = cut[kPixels + p] = cut[2 * kPixels + p] = (cut[p] + cut[kPixels + p] + cut[2 * kPixels + p]) / kColours;
  for (int c = 0; c < kColours; ++c) {
    const float* target = wanted + (kGrey ? 0 : c * kPixels);
    for (int p = 0; p < kPixels; ++p) {
      const int k = c * kPixels + p;
      const float difference = cut[k] - target[p], weighted = weights ? difference * weights[p] : difference;
      errors[p] += difference * weighted;
      // Twice the difference, of a quarter of the feature; what is cut off has no gradient.
      cell[k] = x[k] >= 0 && x[k] <= 1 ? 0.5f * weighted : 0.0f;
    }
  }
  float sum = 0;
  for (const float e : errors) sum += e;
  return sum;
}

}  // namespace

void cell_errors(const CellsArgs& a, double* errors, int threads) {
  const int64_t f = a.factor, lines = a.batch * a.height, colours = a.grey ? 1 : kColours;
  std::vector<double> sums(static_cast<size_t>(lines));
  parallel_for(threads, lines, [&](int64_t line) {
    poll();
    const int64_t b = line / a.height, i = line % a.height;
    double sum = 0;
    for (int64_t j = 0; j < a.width; ++j) {
      const int64_t at = line * a.width + j;
      float* cell = a.cells + at * kFeatures;
      float* fine = nullptr;
      if (a.fine) {
        const int64_t latent = (b * (a.height / f) + i / f) * (a.width / f) + j / f;
        fine = a.fine + (latent * f * f + i % f * f + j % f) * kFeatures;
      }
      const float *wanted = a.wanted + at * colours * kPixels,
                  *weights = a.weights ? a.weights + at * kPixels : nullptr;
      sum += a.grey ? one_cell<true>(cell, fine, wanted, weights) : one_cell<false>(cell, fine, wanted, weights);
      if (fine) std::copy_n(cell, kFeatures, fine);
    }
    sums[static_cast<size_t>(line)] = sum;
  });
  for (int64_t b = 0; b < a.batch; ++b) {
    errors[b] = 0;
    for (int64_t i = 0; i < a.height; ++i) errors[b] += sums[static_cast<size_t>(b * a.height + i)];
  }
}

}  // namespace ccm
