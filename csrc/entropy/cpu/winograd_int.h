// Integer convolutions by Winograd's minimal filtering, F(4x4, 3x3) and F(4x2, 3x5), to the bit.
//
// A tile of 4 rows by 4 columns of sums (3-wide kernels) or by 2 (5-wide ones) comes from a patch of 6x6 inputs: both
// are evaluated at the 36 pairs of the points 0, 1, -1, 2, -2 and infinity, and multiplied there. That is 2.25 products
// a sum instead of 9 for 3x3 kernels, 9 instead of 25 for 5x5 ones (Lavin and Gray, arXiv 1509.09308, in floating
// point).
//
// Kernels at these points have denominators of 24 in each direction. We leave them out, so kernels and inputs stay
// 16-bit integers and 576 times the sum comes out; less where a tile's position has a common factor. 32-bit sums may
// wrap on the way: the result is right modulo 2^32, the 9 in 576 has an inverse there, and the factor of 64 takes six
// bits away. So a layer whose sums fit 26 bits, which its weights prove (kPointLimit), comes out exactly.
//
// Kernels are cut into parts of three rows (the last may have fewer), which are added at the points.
#pragma once
#include <cstdint>
#include <memory>

#include "entropy/cpu/kernels.h"
#include "entropy/cpu/plane.h"

namespace ccm {

constexpr int32_t kPoints = 36, kPatch = 6, kTileRows = 4;

// Sums of products must stay below this.
constexpr int64_t kPointLimit = int64_t{1} << 25;

// A convolution at the points. Its first tap is `up` rows above and `left` columns before the sum's place.
struct PointConv {
  const int16_t* weights;  // [kPoints] panels of a product with depth() elements
  int32_t cin_pad, n_pad, rows, columns, up, left;

  int32_t parts() const { return (rows + 2) / 3; }
  int32_t depth() const { return parts() * cin_pad; }
  int32_t tile_columns() const { return columns == 3 ? 4 : 2; }
};

// Elements of the weights of such a convolution.
inline int64_t point_elements(int32_t rows, int32_t cin_pad, int32_t n_pad) {
  return int64_t{kPoints} * ((rows + 2) / 3) * cin_pad * n_pad;
}

// Kernels [out][rows][columns][in] (columns: 3 or 5) to panels of 16 columns by two channels. `source`: the input
// channel of each of the plane's in_pad channels, -1 where there is none.
void pack_points(const int8_t* w, int32_t out, int32_t rows, int32_t columns, int32_t in, int32_t in_pad, int32_t n_pad,
                 const int32_t* source, int16_t* to);

// The region of one call: output rows [first, last) of `width` columns, input channels from `channel`.
// Rows from last - up + rows - 1 on are not read: another thread may be writing them.
struct PointRows {
  const Plane& in;
  int32_t channel, first, last, width;

  // Tiles beside and above each other.
  int32_t across(const PointConv& c) const { return (width + c.tile_columns() - 1) / c.tile_columns(); }
  int32_t down() const { return (last - first + kTileRows - 1) / kTileRows; }
};

// Tiles on their way through the points, in raster order of the rows' tiles, so many at once.
class PointBatch {
 public:
  PointBatch(const Kernels& k, const PointConv& c, const PointRows& rows);

  // Whether there are enough tiles for this to be faster than the plain sums.
  static bool pays(const PointConv& c, const PointRows& rows);

  int32_t across() const { return across_; }
  int32_t tiles() const { return tiles_; }
  int32_t capacity() const { return capacity_; }

  // Tiles first .. first + count - 1 (at most capacity() of them) to the points, and the products there.
  void products(int32_t first, int32_t count);
  // Of tile t of these: sums + init, to[i * row_stride + j * column_stride + n]. init: [n_pad].
  void sums(int32_t t, const int32_t* init, int32_t* to, int64_t row_stride, int64_t column_stride) const;

 private:
  const Kernels& k_;
  const PointConv c_;
  const PointRows rows_;
  int32_t across_, tiles_, capacity_;
  std::unique_ptr<int16_t[]> inputs_;    // [kPoints][capacity][depth]
  std::unique_ptr<int32_t[]> products_;  // [kPoints][capacity][n_pad]
  std::unique_ptr<int16_t[]> zeros_;     // [cin_pad]: pixels that are not there
  std::unique_ptr<int32_t[]> no_init_;   // [n_pad]
};

}  // namespace ccm
