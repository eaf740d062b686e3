// What symbols stand for where a weights file does not say: centroids of Gaussians.
#pragma once
#include <vector>

#include "model/model.h"

namespace ccm {

// What to add to the symbols of every row of y, float [rows][2 kShiftReach + 1]: the expected value of a Gaussian of
// the row's mean and scale in the unit interval around each symbol, less the symbol.
std::vector<float> gaussian_shifts(const PackedModel& m);

// The mean less the offset of every row of y.
std::vector<float> row_means(const PackedModel& m);

}  // namespace ccm
