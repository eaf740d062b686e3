// A block filters a tile: its pixels and those around it are read once, and lie in shared memory as integers, two side
// by side in a word. No sum of four of them leaves 16 bits, so one addition serves two pixels.
#include "transforms/cuda/picture_filter_cuda.h"

namespace ccm {
namespace {

constexpr int32_t kThreads = 256, kTileRows = 16, kTileColumns = 64;
constexpr int32_t kBefore = 4;  // columns before the tile, and behind it: kFilterReach, made even
constexpr int32_t kRowsRead = kTileRows + 2 * kFilterReach, kWords = (kTileColumns + 2 * kBefore) / 2;
static_assert(4 * kFilterWhite < 1 << 16 && 2 * 3 * kFilterWhite < 1 << 16, "sums stay within half a word");

// What one tap adds to the colours. Padding puts classes into banks of their own.
struct alignas(16) TapWeights {
  float to[4];
};
constexpr int32_t kClassStride = 3 * kFilterTaps + 1;

struct FilterTile {
  uint32_t pixel[3][kRowsRead][kWords];
  uint32_t light[kRowsRead][kWords];  // the sum of the colours
  int2 busy[kTileRows + 2][kWords];   // second differences, from one row above the tile on
  TapWeights weights[kFilterBins][kClassStride];
  int32_t bounds[kFilterBins - 1];
};

// Of a word, as 2^23 + the half: floats between 2^23 and 2^24 are whole numbers.
constexpr float kOffset = 8388608;
CCM_DEVICE float offset_half(uint32_t word, int32_t which) {
  return __uint_as_float(0x4b000000 | (which ? word >> 16 : word & 0xffff));
}

// The pixels one column further on than those of the first word; the other word is its neighbour.
CCM_DEVICE uint32_t between(uint32_t word, uint32_t next) { return word >> 16 | next << 16; }

CCM_DEVICE int32_t clamped(int32_t v, int32_t most) { return v < 0 ? 0 : v > most ? most : v; }

CCM_DEVICE float float_at(const FilterArgs& a, int64_t at) { return static_cast<const float*>(a.pixels)[at]; }

CCM_DEVICE uint32_t pixel_at(const FilterArgs& a, int64_t at) {
  const int32_t p =
      a.floats ? __float2int_rn(float_at(a, at) * kFilterWhite) : static_cast<const int16_t*>(a.pixels)[at];
  return static_cast<uint32_t>(clamped(p, kFilterWhite));
}

// v in units of kFilterUnits a level.
CCM_DEVICE void store(const FilterArgs& a, int64_t at, float v) {
  if (a.bytes)
    static_cast<uint8_t*>(a.out)[at] =
        static_cast<uint8_t>(__float2int_rn(fminf(fmaxf(v * (1.0f / kFilterUnits), 0), 255)));
  else
    static_cast<float*>(a.out)[at] = fminf(fmaxf(v * (1.0f / kFilterWhite), 0), 1);
}

// Where a tile is, and what of the batch it belongs to.
struct Place {
  int32_t top, left, colours;
  int64_t from, to;  // the picture's first pixel
};

// Pixels of a picture without a filter, as torch rounds them.
CCM_DEVICE void round_tile(const FilterArgs& a, const Place& p) {
#pragma unroll 1
  for (int32_t k = threadIdx.x; k < kTileRows * kTileColumns; k += kThreads) {
    const int32_t i = p.top + k / kTileColumns, j = p.left + k % kTileColumns;
    if (i >= a.height || j >= a.width) continue;
#pragma unroll 1
    for (int32_t c = 0; c < a.out_planes; ++c) {
      const int64_t at = p.from + (c < a.planes ? c : 0) * a.plane_stride + i * a.row_stride + j * a.column_stride;
      const int64_t to = p.to + (static_cast<int64_t>(c) * a.height + i) * a.width + j;
      if (a.bytes && a.floats)
        static_cast<uint8_t*>(a.out)[to] =
            static_cast<uint8_t>(__float2int_rn(fminf(fmaxf(float_at(a, at) * 255, 0), 255)));
      else if (a.floats)
        static_cast<float*>(a.out)[to] = float_at(a, at);
      else
        store(a, to, static_cast<float>(pixel_at(a, at)));
    }
  }
}

// Edges are repeated where the tile's surroundings leave the picture.
CCM_DEVICE void read_tile(const FilterArgs& a, const Place& p, FilterTile& t) {
#pragma unroll 1
  for (int32_t k = threadIdx.x; k < kRowsRead * kWords; k += kThreads) {
    const int32_t row = k / kWords, word = k - row * kWords, j = p.left - kBefore + 2 * word;
    const int64_t at = p.from + clamped(p.top - kFilterReach + row, a.height - 1) * a.row_stride;
    const int64_t one = at + clamped(j, a.width - 1) * a.column_stride,
                  two = at + clamped(j + 1, a.width - 1) * a.column_stride;
    uint32_t light = 0;
#pragma unroll
    for (int32_t c = 0; c < 3; ++c) {
      if (c >= p.colours) break;
      const uint32_t both = pixel_at(a, one + c * a.plane_stride) | pixel_at(a, two + c * a.plane_stride) << 16;
      t.pixel[c][row][word] = both;
      light += both;
    }
    t.light[row][word] = p.colours == 1 ? 3 * light : light;  // grey counts three times, so that bounds mean the same
  }
}

CCM_DEVICE void read_weights(const float* filter, int32_t colours, int32_t classes, FilterTile& t) {
  const int32_t taps = colours * kFilterTaps;
  const int32_t thread = threadIdx.x;
  if (thread < classes - 1) t.bounds[thread] = static_cast<int32_t>(filter[kRecordBounds + thread]);
#pragma unroll 1
  for (int32_t k = thread; k < classes * colours * taps; k += kThreads) {
    const int32_t row = k / taps, tap = k - row * taps, one = row / colours;
    t.weights[one][tap].to[row - one * colours] = filter[kRecordWeights + k];
  }
}

CCM_DEVICE int32_t magnitude(int32_t v) { return v < 0 ? -v : v; }

// Second differences of two pixels along columns and rows.
CCM_DEVICE void differ_tile(FilterTile& t) {
#pragma unroll 1
  for (int32_t k = threadIdx.x; k < (kTileRows + 2) * kWords; k += kThreads) {
    const int32_t i = k / kWords, word = k - i * kWords, row = i + kFilterReach - 1;
    if (word == 0 || word == kWords - 1) continue;
    const uint32_t middle = t.light[row][word], twice = 2 * middle;
    const uint32_t rows = t.light[row - 1][word] + t.light[row + 1][word];
    const uint32_t columns = between(t.light[row][word - 1], middle) + between(middle, t.light[row][word + 1]);
    const auto low = [](uint32_t w) { return static_cast<int32_t>(w & 0xffff); };
    const auto high = [](uint32_t w) { return static_cast<int32_t>(w >> 16); };
    t.busy[i][word] = make_int2(magnitude(low(twice) - low(rows)) + magnitude(low(twice) - low(columns)),
                                magnitude(high(twice) - high(rows)) + magnitude(high(twice) - high(columns)));
  }
}

// Classes of a word's pixels in a row of the tile.
CCM_DEVICE void classify(const FilterTile& t, int32_t row, int32_t word, int32_t classes, int32_t (&kind)[2]) {
  int32_t one = 0, two = 0;
  for (int32_t i = row; i < row + 3; ++i) {
    const int2 middle = t.busy[i][word];
    const int32_t both = middle.x + middle.y;
    one += both + t.busy[i][word - 1].y;
    two += both + t.busy[i][word + 1].x;
  }
  kind[0] = kind[1] = 0;
#pragma unroll 1
  for (int32_t k = 0; k < classes - 1; ++k) {
    kind[0] += one >= t.bounds[k];
    kind[1] += two >= t.bounds[k];
  }
}

// Sums over rings of four pixels, of two pixels each.
CCM_DEVICE void rings(const uint32_t (*rows)[kWords], int32_t word, uint32_t (&ring)[kFilterTaps - 1]) {
  const auto at = [&](int32_t i, int32_t j) { return rows[kFilterReach + i][word + j]; };
  const auto odd = [&](int32_t i, int32_t j) { return between(at(i, j), at(i, j + 1)); };  // column 2 j + 1
  ring[0] = odd(0, -1) + odd(0, 0) + at(-1, 0) + at(1, 0);
  ring[1] = odd(-1, -1) + odd(-1, 0) + odd(1, -1) + odd(1, 0);
  ring[2] = at(0, -1) + at(0, 1) + at(-2, 0) + at(2, 0);
  ring[3] = at(-2, -1) + at(-2, 1) + at(2, -1) + at(2, 1);
  ring[4] = odd(0, -2) + odd(0, 1) + at(-3, 0) + at(3, 0);
}

template <int32_t kColours>
CCM_DEVICE void filter_word(const FilterTile& t, int32_t row, int32_t word, const int32_t (&kind)[2],
                            float (&found)[2][3]) {
  for (int32_t c = 0; c < kColours; ++c)
    for (int32_t k = 0; k < 2; ++k) found[k][c] = offset_half(t.pixel[c][row + kFilterReach][word], k) - kOffset;
#pragma unroll
  for (int32_t c = 0; c < kColours; ++c) {
    uint32_t ring[kFilterTaps - 1];
    rings(t.pixel[c] + row, word, ring);
    for (int32_t k = 0; k < 2; ++k) {
      const float p = offset_half(t.pixel[c][row + kFilterReach][word], k) - kOffset, less = 4 * p + kOffset;
      const TapWeights* weights = t.weights[kind[k]] + c * kFilterTaps;
      for (int32_t tap = 0; tap < kFilterTaps; ++tap) {
        const float v = tap == 0 ? (p - kFilterMiddle) * 0.125f : offset_half(ring[tap > 0 ? tap - 1 : 0], k) - less;
        const TapWeights w = weights[tap];
        for (int32_t to = 0; to < kColours; ++to) found[k][to] += w.to[to] * v;
      }
    }
  }
}

template <int32_t kColours>
CCM_DEVICE void filter_tile(const FilterArgs& a, const Place& p, int32_t classes, const FilterTile& t) {
  const int32_t word = kBefore / 2 + static_cast<int32_t>(threadIdx.x) % 32, j = p.left + 2 * word - kBefore;
#pragma unroll 1
  for (int32_t row = threadIdx.x / 32; row < kTileRows; row += kThreads / 32) {
    const int32_t i = p.top + row;
    if (i >= a.height || j >= a.width) break;
    int32_t kind[2] = {0, 0};
    if (classes > 1) classify(t, row, word, classes, kind);
    float found[2][3];
    filter_word<kColours>(t, row, word, kind, found);
    for (int32_t c = 0; c < 3; ++c) {
      if (c >= a.out_planes) break;
      const int64_t to = p.to + (static_cast<int64_t>(c) * a.height + i) * a.width + j;
      const int32_t from = c < kColours ? c : 0;
      store(a, to, found[0][from]);
      if (j + 1 < a.width) store(a, to + 1, found[1][from]);
    }
  }
}

__host__ CCM_DEVICE int32_t tile_count(int32_t size, int32_t tile) { return (size + tile - 1) / tile; }

}  // namespace

// Grid: tiles, images.
__global__ void __launch_bounds__(kThreads, 4) picture_filter_kernel(const FilterArgs a) {
  CCM_SHARED(tile, FilterTile);
  const float* filter = a.filters + static_cast<int64_t>(blockIdx.y) * kFilterRecord;
  // A record cannot ask for planes or classes that are not there.
  const int32_t colours = filter[0] == 3 && a.planes == 3 ? 3 : filter[0] != 0;
  const int32_t classes = clamped(static_cast<int32_t>(filter[1]), kFilterBins);
  const int32_t across = tile_count(a.width, kTileColumns);
  const int32_t down = static_cast<int32_t>(blockIdx.x) / across;
  const Place place{down * kTileRows, (static_cast<int32_t>(blockIdx.x) - down * across) * kTileColumns, colours,
                    blockIdx.y * a.picture_stride,
                    static_cast<int64_t>(blockIdx.y) * a.out_planes * a.height * a.width};
  if (colours == 0 || classes == 0) {
    round_tile(a, place);
    return;
  }
  read_tile(a, place, tile);
  read_weights(filter, colours, classes, tile);
  __syncthreads();
  if (classes > 1) {
    differ_tile(tile);
#if CCM_FAULT != 12
    __syncthreads();
#endif
  }
  if (colours == 1)
    filter_tile<1>(a, place, classes, tile);
  else
    filter_tile<3>(a, place, classes, tile);
}

cudaError_t launch_picture_filter(const FilterArgs& a, cudaStream_t stream) {
  const dim3 grid(tile_count(a.height, kTileRows) * tile_count(a.width, kTileColumns), a.batch);
  return launch(picture_filter_kernel, grid, dim3(kThreads), 0, stream, false, a);
}

}  // namespace ccm
