// The picture filter that an encoder sends: found by least squares, paid for in bits.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "container/filter_chunk.h"
#include "transforms/analysis.h"
#include "transforms/picture_filter.h"

namespace ccm {

// What pixels lack of the original, and with which taps that goes together.
class FilterStatistics {
 public:
  explicit FilterStatistics(int32_t colours);
  // sums: [kFilterBins][taps][taps + colours], of products of taps with each other and with what pixels lack, in RGB.
  FilterStatistics(int32_t colours, const double* sums);

  // Adds the planes' pixels. original: of the whole picture, grey for planes of one colour.
  void add(const FilterPlanes& planes, const PixelSource& original, int threads);

  // The filter with the lowest Lagrangian, bits + price * squared error (summed over pixels and colours, in squares of
  // kFilterUnits), of its classes, steps and coefficients; none if none gains.
  std::optional<PictureFilter> fit(double price) const;

 private:
  int32_t colours_;
  std::vector<double> sums_;  // [kFilterBins], of filter_bin() numbers, in RGB
};

// The chunk, empty for none, for a decoded picture of levels [colours][height][width] in units of kFilterUnits.
std::vector<uint8_t> fitted_filter(const PixelSource& original, const int16_t* levels, int32_t quality_code,
                                   int threads);

// The same for a decoded picture of which the sums are known.
std::vector<uint8_t> fitted_filter(const double* sums, int32_t colours, int32_t quality_code);

}  // namespace ccm
