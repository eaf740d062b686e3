// The picture filter's kernel against the text (FORMAT.md, section 8) in doubles, as a program that a sanitizer can
// watch from its start.
//
//   filter BATCH HEIGHT WIDTH COLOURS CLASSES
//
// Prints "ok", or "error: ..." where the launch failed or values differ.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "transforms/cuda/picture_filter_cuda.h"

namespace {

void require(bool fine, const std::string& what) {
  if (!fine) throw std::runtime_error(what);
}

struct Picture {
  int64_t height, width, colours;
  std::vector<float> pixels;  // [colours][height][width]

  int64_t at(int64_t c, int64_t i, int64_t j) const {
    i = std::min(std::max<int64_t>(i, 0), height - 1), j = std::min(std::max<int64_t>(j, 0), width - 1);
    return std::lrint(pixels[(c * height + i) * width + j] * float{ccm::kFilterWhite});
  }
  int64_t light(int64_t i, int64_t j) const {
    return colours == 1 ? 3 * at(0, i, j) : at(0, i, j) + at(1, i, j) + at(2, i, j);
  }
  int64_t activity(int64_t row, int64_t column) const {
    int64_t sum = 0;
    for (int64_t i = row - 1; i <= row + 1; ++i)
      for (int64_t j = column - 1; j <= column + 1; ++j)
        sum += std::abs(2 * light(i, j) - light(i - 1, j) - light(i + 1, j)) +
               std::abs(2 * light(i, j) - light(i, j - 1) - light(i, j + 1));
    return sum;
  }
  int64_t tap(int64_t c, int64_t i, int64_t j, int64_t t) const {  // of the first, times 8
    constexpr int64_t kRings[][2] = {{0, 1}, {1, 1}, {0, 2}, {2, 2}, {0, 3}};
    if (t == 0) return at(c, i, j) - ccm::kFilterMiddle;
    const int64_t a = kRings[t - 1][0], b = kRings[t - 1][1];
    return at(c, i + a, j + b) + at(c, i - a, j - b) + at(c, i + b, j - a) + at(c, i - b, j + a) - 4 * at(c, i, j);
  }
};

double filtered(const Picture& p, const float* record, int64_t c, int64_t i, int64_t j) {
  const int64_t classes = static_cast<int64_t>(record[1]), taps = p.colours * ccm::kFilterTaps;
  int64_t kind = 0;
  for (int64_t k = 0; k + 1 < classes; ++k) kind += p.activity(i, j) >= record[ccm::kRecordBounds + k];
  const float* weights = record + ccm::kRecordWeights + (kind * p.colours + c) * taps;
  auto v = static_cast<double>(p.at(c, i, j));
  for (int64_t from = 0; from < p.colours; ++from)
    for (int64_t t = 0; t < ccm::kFilterTaps; ++t)
      v += double{weights[from * ccm::kFilterTaps + t]} * static_cast<double>(p.tap(from, i, j, t)) / (t ? 1 : 8);
  return std::min(std::max(v / ccm::kFilterWhite, 0.0), 1.0);
}

}  // namespace

int main(int argc, char** argv) try {
  require(argc == 6, "usage: filter BATCH HEIGHT WIDTH COLOURS CLASSES");
  int64_t n[5];
  for (int i = 0; i < 5; ++i) n[i] = std::atoi(argv[1 + i]);
  const int64_t batch = n[0], height = n[1], width = n[2], colours = n[3], classes = n[4];
  std::mt19937 random(7);
  std::uniform_real_distribution<float> unit(0, 1);
  std::vector<float> pixels, records;
  std::vector<Picture> pictures;
  for (int64_t b = 0; b < batch; ++b) {
    Picture p{height, width, colours, {}};
    // Noise of many strengths, so that there are pixels of every class.
    for (int64_t k = 0; k < colours * height * width; ++k)
      p.pixels.push_back(0.5f + (unit(random) - 0.5f) * std::ldexp(1.0f, -static_cast<int>(k % width / 8 % 9)));
    pixels.insert(pixels.end(), p.pixels.begin(), p.pixels.end());
    pictures.push_back(std::move(p));
    std::vector<float> record(ccm::kFilterRecord);
    for (float& v : record) v = (unit(random) - 0.5f) / 16;
    record[0] = static_cast<float>(colours), record[1] = static_cast<float>(classes);
    for (int64_t k = 0; k < ccm::kFilterBins - 1; ++k)
      record[ccm::kRecordBounds + k] = static_cast<float>(ccm::kFilterBounds[k]);
    records.insert(records.end(), record.begin(), record.end());
  }
  std::vector<float> out(pixels.size(), 99.0f);
  const int64_t plane = height * width;
  ccm::FilterArgs args{pixels.data(),
                       true,
                       static_cast<int32_t>(colours),
                       colours * plane,
                       plane,
                       width,
                       1,
                       records.data(),
                       out.data(),
                       false,
                       static_cast<int32_t>(colours),
                       static_cast<int32_t>(batch),
                       static_cast<int32_t>(height),
                       static_cast<int32_t>(width)};
  require(ccm::launch_picture_filter(args, nullptr) == cudaSuccess, std::string("launch: ") + emu::last_error());
  for (int64_t k = 0; k < static_cast<int64_t>(out.size()); ++k) {
    const int64_t b = k / (colours * plane), c = k / plane % colours;
    const double expected = filtered(pictures[b], &records[b * ccm::kFilterRecord], c, k % plane / width, k % width);
    require(std::abs(out[k] - expected) < 1e-6,
            "pixel " + std::to_string(k) + " is " + std::to_string(out[k]) + ", not " + std::to_string(expected));
  }
  std::puts("ok");
  return 0;
} catch (const std::exception& e) {
  std::printf("error: %s\n", e.what());
  return 3;
}
