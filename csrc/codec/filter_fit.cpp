#include "codec/filter_fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/interrupt.h"
#include "base/threads.h"
#include "codec/encoder.h"
#include "transforms/opponent.h"

namespace ccm {
namespace {

// Added to the squares of taps, in squares of kFilterUnits: far below what a pixel adds.
constexpr double kRidge = 1024;
// More classes gained nothing on photographs of a megapixel.
constexpr size_t kMostClasses = 8;
// Finer steps pay at high qualities only, coarser ones nowhere.
constexpr int32_t kSteps[] = {7, 8};
// A chunk's type, length and checksum, the end of chunks, and the filter's own head.
constexpr double kOverheadBits = 8 * 7 + 3 + kFilterBins - 1 + 3;

using Matrix = std::vector<double>;

// Normal equations of some bins in opponent colours: squares [n][n], products [n][colours].
struct Normal {
  Matrix squares, products;

  Normal& operator+=(const Normal& other) {
    for (size_t i = 0; i < squares.size(); ++i) squares[i] += other.squares[i];
    for (size_t i = 0; i < products.size(); ++i) products[i] += other.products[i];
    return *this;
  }
};

// The inverse of a symmetric positive definite matrix, by Gauss and Jordan.
Matrix inverse(Matrix a, size_t n) {
  Matrix b(n * n);
  for (size_t i = 0; i < n; ++i) b[i * n + i] = 1;
  for (size_t k = 0; k < n; ++k) {
    const double pivot = 1 / a[k * n + k];
    for (size_t j = 0; j < n; ++j) a[k * n + j] *= pivot, b[k * n + j] *= pivot;
    for (size_t i = 0; i < n; ++i) {
      const double factor = a[i * n + k];
      if (i == k || factor == 0) continue;
      for (size_t j = 0; j < n; ++j) {
        a[i * n + j] -= factor * a[k * n + j];
        b[i * n + j] -= factor * b[k * n + j];
      }
    }
  }
  return b;
}

// What a filter of these coefficients takes off the squared error. w: [colours][n].
double gain(const Normal& normal, const Matrix& w, size_t n, size_t colours) {
  double sum = 0;
  for (size_t c = 0; c < colours; ++c)
    for (size_t i = 0; i < n; ++i) {
      double row = 0;
      for (size_t j = 0; j < n; ++j) row += normal.squares[i * n + j] * w[c * n + j];
      sum += w[c * n + i] * (2 * normal.products[i * colours + c] - row);
    }
  return sum;
}

// The coefficients of least squares, [colours][n].
Matrix solved(const Normal& normal, const Matrix& inverted, size_t n, size_t colours) {
  Matrix w(colours * n);
  for (size_t c = 0; c < colours; ++c)
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) w[c * n + i] += inverted[i * n + j] * normal.products[j * colours + c];
  return w;
}

// About the bits of a coefficient.
double bits_of(double v) { return v == 0 ? 1 : 3 + 2 * std::log2(std::abs(v)); }

// Whole coefficients of a class, in units of `unit`: one after another is rounded up, down or to zero, whichever costs
// less, and those that are left make up for it (optimal brain surgery: Hassibi and Stork 1993).
Matrix rounded(const Normal& normal, size_t n, size_t colours, double unit, double price) {
  Matrix inverted = inverse(normal.squares, n);
  Matrix w = solved(normal, inverted, n, colours);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return normal.squares[a * n + a] > normal.squares[b * n + b]; });
  for (const size_t j : order) {
    const double stiff = 1 / inverted[j * n + j];
    for (size_t c = 0; c < colours; ++c) {
      double* row = &w[c * n];
      const double exact = row[j] / unit, low = std::floor(exact);
      double best = 0, least = INFINITY;
      for (const double v : {0.0, low, low + 1}) {
        if (std::abs(v) > kFilterMost) continue;
        const double off = (v - exact) * unit, cost = bits_of(v) + price * off * off * stiff;
        if (cost < least) least = cost, best = v;
      }
      const double move = (best * unit - row[j]) * stiff;
      for (size_t k = 0; k < n; ++k) row[k] += move * inverted[j * n + k];
      row[j] = best * unit;
    }
    // Takes j out of what can still move.
    const std::vector<double> column(&inverted[j * n], &inverted[j * n] + n);
    for (size_t a = 0; a < n; ++a)
      for (size_t b = 0; b < n; ++b) inverted[a * n + b] -= column[a] * column[b] * stiff;
  }
  for (double& v : w) v = std::round(v / unit);
  return w;
}

}  // namespace

FilterStatistics::FilterStatistics(int32_t colours) : colours_(colours), sums_(kFilterBins * filter_bin(colours)) {}

FilterStatistics::FilterStatistics(int32_t colours, const double* sums) : FilterStatistics(colours) {
  const int32_t taps = colours * kFilterTaps, values = taps + colours;
  for (int32_t bin = 0; bin < kFilterBins; ++bin)
    for (int32_t row = 0; row < taps; ++row)
      for (int32_t column = row; column < values; ++column)
        sums_[bin * filter_bin(colours) + filter_sum(row, column)] =
            sums[(static_cast<int64_t>(bin) * taps + row) * values + column];
}

void FilterStatistics::add(const FilterPlanes& planes, const PixelSource& original, int threads) {
  const Window at = planes.at();
  const int64_t room = filter_room(at.width());
  const FilterKernels kernels = filter_kernels();
  // Sums of floats over a few rows, then of these in their order: the same whatever the number of threads.
  constexpr int64_t kRows = 16;
  constexpr int64_t kAtOnce = 64;
  const int64_t bands = (at.height() + kRows - 1) / kRows;
  const float scale = static_cast<float>(kFilterWhite) / (original.bits == 8 ? 255 : 65535);
  const auto lack = [&](auto sample, int64_t i, float* lacks) {
    using Sample = decltype(sample);
    const auto* from =
        reinterpret_cast<const Sample*>(static_cast<const char*>(original.data) + i * original.row_bytes) +
        at.j0 * original.channels;
    for (int32_t c = 0; c < colours_; ++c) {
      const int16_t* p = planes.pixel(c, i, at.j0);
      for (int64_t j = 0; j < at.width(); ++j)
        lacks[c * room + j] = static_cast<float>(from[j * original.channels + c]) * scale - p[j];
    }
  };
  for (int64_t start = 0; start < bands; start += kAtOnce) {
    const int64_t count = std::min(kAtOnce, bands - start);
    std::vector<float> sums(static_cast<size_t>(count) * sums_.size());
    parallel_for(threads, count, [&](int64_t k) {
      poll();
      std::vector<float> lacks(static_cast<size_t>(colours_ * room));
      const int64_t first = at.i0 + (start + k) * kRows;
      each_filter_row(planes, first, std::min(first + kRows, at.i1),
                      [&](const FilterRow& row, const BusyRows& busy, int64_t i) {
                        if (original.bits == 8)
                          lack(uint8_t{}, i, lacks.data());
                        else
                          lack(uint16_t{}, i, lacks.data());
                        kernels.sum(row, colours_, busy, lacks.data(), &sums[static_cast<size_t>(k) * sums_.size()]);
                      });
    });
    for (int64_t k = 0; k < count; ++k)
      for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += double{sums[static_cast<size_t>(k) * sums_.size() + i]};
  }
}

std::optional<PictureFilter> FilterStatistics::fit(double price) const {
  const auto colours = static_cast<size_t>(colours_);
  const size_t n = colours * kFilterTaps;
  const Opponent space(colours_);
  // A tap of an opponent colour is that sum of the taps of red, green and blue.
  const auto at = [&](size_t bin, size_t row, size_t column) {
    return sums_[bin * filter_bin(colours_) + filter_sum(static_cast<int32_t>(row), static_cast<int32_t>(column))];
  };
  std::vector<Normal> bins(kFilterBins);
  for (size_t b = 0; b < bins.size(); ++b) {
    Normal& to = bins[b];
    to.squares.resize(n * n);
    to.products.resize(n * colours);
    for (size_t i = 0; i < n; ++i)
      for (size_t k = 0; k < colours; ++k) {
        const double left = space(static_cast<int32_t>(i / kFilterTaps), static_cast<int32_t>(k));
        const size_t row = k * kFilterTaps + i % kFilterTaps;
        for (size_t l = 0; l < colours; ++l) {
          for (size_t j = 0; j < n; ++j)
            to.squares[i * n + j] += left * space(static_cast<int32_t>(j / kFilterTaps), static_cast<int32_t>(l)) *
                                     at(b, row, l * kFilterTaps + j % kFilterTaps);
          for (size_t c = 0; c < colours; ++c)
            to.products[i * colours + c] +=
                left * space(static_cast<int32_t>(c), static_cast<int32_t>(l)) * at(b, row, n + l);
        }
      }
  }
  struct Class {
    size_t first, last;  // bins
    Normal normal;
    double gain;  // of exact coefficients
  };
  const auto make = [&](size_t first, size_t last, Normal normal) {
    for (size_t i = 0; i < n; ++i) normal.squares[i * n + i] += kRidge;
    const Matrix w = solved(normal, inverse(normal.squares, n), n, colours);
    const double gained = ccm::gain(normal, w, n, colours);
    for (size_t i = 0; i < n; ++i) normal.squares[i * n + i] -= kRidge;
    return Class{first, last, std::move(normal), gained};
  };
  std::vector<Class> classes;
  for (size_t b = 0; b < bins.size(); ++b) classes.push_back(make(b, b + 1, bins[b]));
  const auto merged = [&](size_t k) {
    Normal both = classes[k].normal;
    both += classes[k + 1].normal;
    return make(classes[k].first, classes[k + 1].last, std::move(both));
  };
  std::optional<PictureFilter> best;
  double least = 0;
  // Neighbours that lose least are merged, until there is one class; every stage may be the best one.
  for (;;) {
    for (const int32_t step : kSteps) {
      if (classes.size() > kMostClasses) break;
      PictureFilter f;
      f.colours = colours_;
      f.step = step;
      f.classes = static_cast<int32_t>(classes.size());
      double taken = 0;
      for (size_t k = 0; k < classes.size(); ++k) {
        Normal normal = classes[k].normal;
        std::fill(f.class_of.begin() + static_cast<int64_t>(classes[k].first),
                  f.class_of.begin() + static_cast<int64_t>(classes[k].last), static_cast<uint8_t>(k));
        for (size_t i = 0; i < n; ++i) normal.squares[i * n + i] += kRidge;
        Matrix w = rounded(normal, n, colours, std::ldexp(1.0, -step), price);
        for (double& v : w) {
          v = std::clamp<double>(v, -kFilterMost, kFilterMost);
          f.coefficients.push_back(static_cast<int16_t>(v));
          v = std::ldexp(v, -step);
        }
        taken += ccm::gain(classes[k].normal, w, n, colours);
      }
      const double cost = kOverheadBits + static_cast<double>(filter_bits(f.coefficients)) - price * taken;
      if (cost < least) least = cost, best = std::move(f);
    }
    if (classes.size() == 1) return best;
    size_t where = 0;
    std::optional<Class> cheapest;
    double loss = INFINITY;
    for (size_t k = 0; k + 1 < classes.size(); ++k) {
      Class both = merged(k);
      const double lost = classes[k].gain + classes[k + 1].gain - both.gain;
      if (lost < loss || !cheapest) loss = lost, where = k, cheapest = std::move(both);
    }
    classes[where] = std::move(*cheapest);
    classes.erase(classes.begin() + static_cast<int64_t>(where) + 1);
  }
}

namespace {

std::vector<uint8_t> fitted(const FilterStatistics& statistics, int32_t colours, int32_t quality_code) {
  const std::optional<PictureFilter> found = statistics.fit(filter_price(quality_code, colours == 1));
  return found ? write_filter(*found) : std::vector<uint8_t>();
}

}  // namespace

std::vector<uint8_t> fitted_filter(const PixelSource& original, const int16_t* levels, int32_t quality_code,
                                   int threads) {
  const int64_t height = original.height, width = original.width;
  FilterStatistics statistics(original.channels);
  // Bands of the size of tiles.
  const int64_t rows = std::max<int64_t>(kFilterBlock, kTileLatents * 256 / width / kFilterBlock * kFilterBlock);
  for (int64_t top = 0; top < height; top += rows) {
    const Window at{top, std::min(top + rows, height), 0, width};
    const FilterPlanes planes = planes_of(levels, at, height, width, original.channels);
    statistics.add(planes, original, threads);
  }
  return fitted(statistics, original.channels, quality_code);
}

std::vector<uint8_t> fitted_filter(const double* sums, int32_t colours, int32_t quality_code) {
  return fitted(FilterStatistics(colours, sums), colours, quality_code);
}

}  // namespace ccm
