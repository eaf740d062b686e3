// Integer convolutions by Winograd's points against plain sums, on odd shapes and with sums at their limits, for the
// sanitizers. Prints "ok" and the number of convolutions, 0 where no instruction set has them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "check.h"
#include "entropy/cpu/winograd_int.h"

namespace {

using checking::require;

std::mt19937 generator(5);
int draw(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(generator); }

struct Case {
  int height, width, first, last, in, out, rows, columns, up, channel;
  bool extreme;
};

void run(const ccm::Kernels& k, const Case& c) {
  const int in_pad = (c.in + 3) / 4 * 4, n_pad = (c.out + k.n_block - 1) / k.n_block * k.n_block, left = c.columns / 2;
  ccm::Plane plane(k, c.height, c.width, c.channel + in_pad, 0);
  // Rows that are read: all others are poisoned after the expected sums are known.
  for (int i = 0; i < c.height; ++i)
    for (int j = 0; j < c.width; ++j)
      for (int q = 0; q < c.in; ++q)
        *reinterpret_cast<int16_t*>(plane.at(i, j, c.channel + q)) =
            static_cast<int16_t>(c.extreme ? (draw(0, 1) ? 255 : -255) : draw(-255, 255));
  std::vector<int8_t> w(static_cast<size_t>(c.out) * c.rows * c.columns * c.in);
  for (int8_t& v : w) v = static_cast<int8_t>(c.extreme ? (draw(0, 1) ? 127 : -127) : draw(-127, 127));
  if (c.extreme) {  // every product of the first output is the largest there is, at one place
    const int i = c.first + 1, j = std::min(c.width - 1, 2);
    for (int u = 0; u < c.rows; ++u)
      for (int v = 0; v < c.columns; ++v)
        for (int q = 0; q < c.in; ++q) {
          const int r = i - c.up + u, s = j - left + v;
          if (r >= 0 && r < c.height && s >= 0 && s < c.width)
            w[(u * c.columns + v) * c.in + q] =
                *reinterpret_cast<const int16_t*>(plane.at(r, s, c.channel + q)) > 0 ? 127 : -127;
        }
  }
  std::vector<int32_t> expected(static_cast<size_t>(c.last - c.first) * c.width * c.out), init(n_pad);
  for (int32_t& v : init) v = draw(-1000000, 1000000);
  for (int i = c.first; i < c.last; ++i)
    for (int j = 0; j < c.width; ++j)
      for (int n = 0; n < c.out; ++n) {
        int64_t sum = 0;
        for (int u = 0; u < c.rows; ++u)
          for (int v = 0; v < c.columns; ++v) {
            const int r = i - c.up + u, s = j - left + v;
            if (r < 0 || r >= c.height || s < 0 || s >= c.width) continue;
            const auto* x = reinterpret_cast<const int16_t*>(plane.at(r, s, c.channel));
            const int8_t* weight = &w[((static_cast<size_t>(n) * c.rows + u) * c.columns + v) * c.in];
            for (int q = 0; q < c.in; ++q) sum += x[q] * weight[q];
          }
        require(std::abs(sum) < ccm::kPointLimit, "a case beyond the limit");
        expected[(static_cast<size_t>(i - c.first) * c.width + j) * c.out + n] = static_cast<int32_t>(sum) + init[n];
      }
  for (int i = c.last - c.up + c.rows - 1; i < c.height; ++i)
    for (int j = 0; j < c.width; ++j)
      for (int q = 0; q < c.in; ++q) *reinterpret_cast<int16_t*>(plane.at(i, j, c.channel + q)) = 32767;

  std::vector<int32_t> source(in_pad, -1);
  std::iota(source.begin(), source.begin() + c.in, 0);
  std::vector<int16_t> packed(ccm::point_elements(c.rows, in_pad, n_pad));
  ccm::pack_points(w.data(), c.out, c.rows, c.columns, c.in, in_pad, n_pad, source.data(), packed.data());
  const ccm::PointConv conv{packed.data(), in_pad, n_pad, c.rows, c.columns, c.up, left};
  ccm::PointBatch batch(k, conv, {plane, c.channel, c.first, c.last, c.width});
  const int side = conv.tile_columns();
  std::vector<int32_t> sums(static_cast<size_t>(ccm::kTileRows) * side * n_pad);
  for (int first = 0; first < batch.tiles(); first += batch.capacity()) {
    const int count = std::min(batch.capacity(), batch.tiles() - first);
    batch.products(first, count);
    for (int t = 0; t < count; ++t) {
      batch.sums(t, init.data(), sums.data(), static_cast<int64_t>(side) * n_pad, n_pad);
      const int top = (first + t) / batch.across() * ccm::kTileRows, j = (first + t) % batch.across() * side;
      for (int a = 0; a < std::min(ccm::kTileRows, c.last - c.first - top); ++a)
        for (int b = 0; b < std::min(side, c.width - j); ++b)
          for (int n = 0; n < c.out; ++n)
            require(sums[static_cast<size_t>(a * side + b) * n_pad + n] ==
                        expected[(static_cast<size_t>(top + a) * c.width + j + b) * c.out + n],
                    "a sum differs");
    }
  }
}

}  // namespace

int main() try {
  const ccm::Kernels& k = ccm::best_kernels();
  int done = 0;
  const ccm::Kernels* avx2 = ccm::kernels_for(ccm::kIsaAvx2);
  if (const ccm::Kernels* points = k.to_points ? &k : avx2) {
    // 115 channels of a 3x3 kernel, 69 of a 3x5 one: 127 * 255 * 1035 is just below the limit.
    for (const Case& c : {Case{9, 13, 0, 9, 7, 5, 3, 3, 1, 0, false}, Case{9, 13, 4, 8, 20, 17, 3, 3, 1, 8, false},
                          Case{6, 3, 1, 6, 12, 33, 5, 5, 2, 4, false}, Case{11, 14, 4, 9, 36, 16, 5, 5, 2, 0, false},
                          Case{5, 9, 0, 5, 28, 40, 3, 5, 2, 12, false}, Case{1, 1, 0, 1, 4, 3, 5, 5, 2, 0, false},
                          Case{40, 70, 0, 40, 64, 300, 3, 3, 1, 0, false}, Case{7, 7, 0, 7, 115, 4, 3, 3, 1, 0, true},
                          Case{8, 8, 0, 8, 69, 4, 3, 5, 2, 0, true}, Case{9, 6, 0, 9, 41, 4, 5, 5, 2, 0, true}}) {
      run(*points, c);
      ++done;
    }
  }
  std::printf("ok %d\n", done);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
