// Large pictures in tiles, seamlessly: a tile is computed with a margin of at least the transform's receptive field,
// which is thrown away. The same tiles as ccm_fast/tiles.py, since floats of other tiles differ in their last bits.
#pragma once
#include <cstdint>
#include <vector>

namespace ccm {

// Latents of a tile: 8 Mpixel.
constexpr int64_t kTileLatents = (int64_t{8} << 20) / 256;

// Rows [i0, i1) and columns [j0, j1) of a plane.
struct Window {
  int64_t i0, i1, j0, j1;

  int64_t height() const { return i1 - i0; }
  int64_t width() const { return j1 - j0; }
  Window times(int64_t n) const { return {i0 * n, i1 * n, j0 * n, j1 * n}; }
  // The positions of a plane of 1/n of the sides that have these.
  Window over(int64_t n) const { return {i0 / n, (i1 + n - 1) / n, j0 / n, (j1 + n - 1) / n}; }
};

// A rectangle of latents [i0, i1) x [j0, j1), and the larger one that has to be computed for it.
struct Tile {
  int64_t i0, i1, j0, j1, outer_i0, outer_i1, outer_j0, outer_j1;

  // Of the outer rectangle: its size, and where the inner one lies in it.
  int64_t height() const { return outer_i1 - outer_i0; }
  int64_t width() const { return outer_j1 - outer_j0; }
  Window inside() const { return {i0 - outer_i0, i1 - outer_i0, j0 - outer_j0, j1 - outer_j0}; }
};

// Cuts h x w latents into tiles whose outer rectangles have at most about `budget`: of all regular grids the one with
// the least computation; one tile if the plane fits. around: latents of margin.
std::vector<Tile> plan_tiles(int64_t h, int64_t w, int64_t around, int64_t budget);

// A layer as the receptive field sees it, along one axis.
struct SpanLayer {
  int64_t kernel = 1, stride = 1, padding = 0;
  int64_t shuffle = 1, unshuffle = 1;  // factor of a pixel (un)shuffle in the convolution's place
};

// Positions first .. last.
struct Range {
  int64_t first, last;
};

// The input positions that a range of output positions depends on, for a chain of layers.
Range input_range(const std::vector<SpanLayer>& chain, Range output);

}  // namespace ccm
