#include "codec/centroids.h"

#include <algorithm>
#include <cmath>

#include "entropy/cpu/context_cpu.h"

namespace ccm {
namespace {

// Scales are spaced by equal factors between these ends.
constexpr double kScaleMin = 0.11, kScaleMax = 256;

double normal_cdf(double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }

// The expected value of a Gaussian within the unit interval around y. Mirrored so that the interval lies above the
// mean, where the upper tails keep their precision; where its probability vanishes, the end nearer to the mean.
double centroid(double y, double mean, double scale) {
  constexpr double kLeastMass = 1e-30, kRootOfTwoPi = 2.5066282746310002;
  const double d = std::abs(y - mean), sign = y < mean ? -1 : 1;
  const double low = (d - 0.5) / scale, high = (d + 0.5) / scale;
  const double density = std::exp(-0.5 * low * low) - std::exp(-0.5 * high * high);
  const double mass = (normal_cdf(-low) - normal_cdf(-high)) * kRootOfTwoPi;
  const double inside = mass > kLeastMass ? std::clamp(scale * density / mass, d - 0.5, d + 0.5) : d - 0.5;
  return mean + sign * inside;
}

}  // namespace

std::vector<float> row_means(const PackedModel& m) {
  std::vector<float> means;
  for (const ScaleRow& scale : m.scale_rows) {
    const int32_t parts = 1 << scale.bits;
    for (int32_t fraction = 0; fraction < parts; ++fraction)
      means.push_back(static_cast<float>(fraction - parts / 2) / static_cast<float>(parts));
  }
  return means;
}

std::vector<float> gaussian_shifts(const PackedModel& m) {
  std::vector<float> shifts;
  for (int32_t index = 0; index < kNumScales; ++index) {
    const int32_t parts = 1 << m.scale_rows[index].bits;
    const double scale = kScaleMin * std::pow(kScaleMax / kScaleMin, index / (kNumScales - 1.0));
    for (int32_t fraction = 0; fraction < parts; ++fraction) {
      const double mean = static_cast<double>(fraction - parts / 2) / parts;
      for (int32_t y = -kShiftReach; y <= kShiftReach; ++y)
        shifts.push_back(static_cast<float>(centroid(y, mean, scale) - y));
    }
  }
  return shifts;
}

}  // namespace ccm
