// The picture filter (FORMAT.md, section 8) on a CPU: pixels before they are rounded, filtered, and what an encoder
// needs to find a filter.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/float_buffer.h"
#include "format/picture_filter.h"
#include "transforms/tiles.h"

namespace ccm {

// Pixels of a window of a picture in units of kFilterUnits a level, each colour by itself, with kFilterReach more on
// every side: pixels of the picture where it goes on, else its edge repeated.
struct FilterRow;

class FilterPlanes {
 public:
  // at: in pixels of a picture of height x width.
  FilterPlanes(const Window& at, int64_t height, int64_t width, int32_t colours);

  const Window& at() const { return at_; }
  // What has to be filled in: the window and its surroundings, as far as they lie in the picture.
  Window filled() const;
  int32_t colours() const { return colours_; }
  int64_t stride() const { return stride_; }
  int16_t* pixel(int32_t colour, int64_t row, int64_t column) {
    return &values_[((colour * rows_ + row - at_.i0 + kFilterReach) * stride_) + column - at_.j0 + kFilterReach];
  }
  const int16_t* pixel(int32_t colour, int64_t row, int64_t column) const {
    return const_cast<FilterPlanes*>(this)->pixel(colour, row, column);
  }
  // Repeats the picture's edges and sums the colours, once the rest is filled in.
  void finish();
  FilterRow row(int64_t i) const;

 private:
  Window at_;
  int64_t height_, width_, rows_, stride_;
  int32_t colours_;
  FloatBuffer memory_;
  int16_t* values_;  // [colours, and the sum of them][rows][stride]
};

// A filter ready to be applied: weights [classes][colours][taps] of taps in RGB, for sums in RGB.
struct FilterWeights {
  explicit FilterWeights(const PictureFilter& filter);

  int32_t colours, classes;
  std::vector<int32_t> bounds;  // classes - 1, ascending
  std::vector<float> values;
};

// Kernels read and write up to so many pixels behind a row's last; planes and rows have room for them.
constexpr int32_t kFilterBlock = 16;
inline int64_t filter_room(int64_t count) { return (count + kFilterBlock - 1) / kFilterBlock * kFilterBlock; }

struct FilterRow {
  const int16_t *at, *light;  // the row's first pixel: of the first colour, and the sum of all
  int64_t stride, plane;      // from a row, and from a colour, to the next
  int64_t count;              // pixels
};

// Second differences of the row before, of the row itself and of the row after, from column 0 on; what is one column
// before and behind is there too.
using BusyRows = std::array<const int32_t*, 3>;

// What is summed over pixels of each bin: products of a pixel's values, which are its taps and then what it lacks of
// the original in each colour; [values][kFilterColumns]. Half of them are each other's mirror images: filter_sum() says
// where two values' product is. Places that it does not name hold anything.
constexpr int32_t kFilterColumns = 32, kFilterHead = 16;
constexpr size_t filter_bin(int32_t colours) {
  return static_cast<size_t>(colours) * (kFilterTaps + 1) * kFilterColumns;
}
// Columns behind kFilterHead would be vectors with little in them, for every row: they are rows instead.
constexpr int32_t filter_sum(int32_t a, int32_t b) {
  const int32_t low = a < b ? a : b, high = a < b ? b : a;
  return low < kFilterHead && high >= kFilterHead ? high * kFilterColumns + low : low * kFilterColumns + high;
}

struct FilterKernels {
  // Along columns and along rows, of the colours' sum: of columns -1 to count.
  void (*differences)(const FilterRow&, int32_t* to);
  // levels: [colours][filter_room(count)], of `most` for white.
  void (*apply)(const FilterRow&, const BusyRows&, const FilterWeights&, int32_t most, uint16_t* levels);
  // lacks: [colours][filter_room(count)].
  void (*sum)(const FilterRow&, int32_t colours, const BusyRows&, const float* lacks, float* sums);
};

// Calls use(row, differences of three rows, its number) for rows [first, last) of the planes.
void each_filter_row(const FilterPlanes& planes, int64_t first, int64_t last,
                     const std::function<void(const FilterRow&, const BusyRows&, int64_t)>& use);

FilterKernels plain_filter_kernels();
#if defined(CCM_HAVE_FMA)
FilterKernels fma_filter_kernels();
#endif
#if defined(CCM_HAVE_FMA512VNNI)
FilterKernels fma512vnni_filter_kernels();
#endif
FilterKernels filter_kernels();

// A whole picture behind its filter. levels, filtered: [colours][height][width] in units of kFilterUnits a level.
void filter_levels(const int16_t* levels, int64_t height, int64_t width, const PictureFilter& filter, int16_t* filtered,
                   int threads);

// The planes of a window of a picture of levels, as above, finished.
FilterPlanes planes_of(const int16_t* levels, const Window& at, int64_t height, int64_t width, int32_t colours);

}  // namespace ccm
