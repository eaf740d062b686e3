// Damaged files and damaged weights through the C interface. Prints how often each status came and exits with 0 when
// none was unexpected.
//
//   decode_check WEIGHTS FILE.ccm FLIPS
//
// Decodes the file whole, every truncation of it, and FLIPS copies with a few flipped bits; then opens FLIPS damaged
// copies of the weights, and decodes with those that open. Encodes noise between both, and decodes parts of the file.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "ccm.h"
#include "check.h"

namespace {

using checking::read_file;
using checking::require;
using Bytes = std::vector<uint8_t>;

std::map<ccm_status, int> seen;

ccm_status count(ccm_status status) {
  ++seen[status];
  require(status == CCM_OK || *ccm_last_error(), "a failure without a message");
  return status;
}

ccm_status decode(const ccm_model* model, const Bytes& data) {
  ccm_options options;
  ccm_options_init(&options);
  options.threads = 1;
  options.max_pixels = 1 << 20;
  ccm_info info;
  if (const ccm_status status = ccm_read_info(data.data(), data.size(), options.max_pixels, &info)) return status;
  const size_t row = static_cast<size_t>(info.width) * 3;
  Bytes pixels(row * static_cast<size_t>(info.height));
  return ccm_decode(model, data.data(), data.size(), CCM_RGB8, pixels.data(), row, &options);
}

// Parts, at edges too and in rows that are longer than they, are those of the whole picture; others are refused.
void crop(const ccm_model* model, const Bytes& data) {
  ccm_options options;
  ccm_options_init(&options);
  options.threads = 2;
  ccm_info info;
  require(ccm_read_info(data.data(), data.size(), 0, &info) == CCM_OK, ccm_last_error());
  const auto decode_part = [&](Bytes& pixels, size_t row) {
    return ccm_decode(model, data.data(), data.size(), CCM_RGB8, pixels.data(), row, &options);
  };
  const size_t whole_row = static_cast<size_t>(info.width) * 3;
  Bytes whole(whole_row * static_cast<size_t>(info.height));
  require(decode_part(whole, whole_row) == CCM_OK, ccm_last_error());
  std::mt19937_64 random(3);
  const auto below = [&random](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  for (int k = 0; k < 100; ++k) {
    options.crop_width = 1 + below(info.width);
    options.crop_height = 1 + below(info.height);
    options.crop_x = below(info.width - options.crop_width + 1);
    options.crop_y = below(info.height - options.crop_height + 1);
    const size_t bytes = static_cast<size_t>(options.crop_width) * 3, row = bytes + static_cast<size_t>(below(5));
    Bytes part(row * static_cast<size_t>(options.crop_height - 1) + bytes);
    require(decode_part(part, row) == CCM_OK, ccm_last_error());
    for (int64_t i = 0; i < options.crop_height; ++i) {
      const auto from = whole.begin() + (options.crop_y + i) * info.width * 3 + options.crop_x * 3;
      require(std::equal(from, from + static_cast<std::ptrdiff_t>(bytes),
                         part.begin() + i * static_cast<std::ptrdiff_t>(row)),
              "a part is not the whole picture's");
    }
  }
  constexpr int64_t kMost = INT64_MAX;
  for (const auto& [x, y, w, h] : std::vector<std::array<int64_t, 4>>{{-1, 0, 1, 1},
                                                                      {0, 0, info.width + 1, 1},
                                                                      {info.width, 0, 1, 1},
                                                                      {0, info.height, 1, 1},
                                                                      {1, 1, 0, 0},
                                                                      {0, 0, 1, -1},
                                                                      {kMost, kMost, kMost, kMost},
                                                                      {-kMost, 0, kMost, 1},
                                                                      {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN}}) {
    options.crop_x = x;
    options.crop_y = y;
    options.crop_width = w;
    options.crop_height = h;
    Bytes none(1);
    require(decode_part(none, 1 << 20) == CCM_ARGUMENT, "a part outside of the picture");
  }
}

void flip(Bytes& data, std::mt19937& random, int most) {
  for (int k = 1 + static_cast<int>(random() % most); k > 0; --k) data[random() % data.size()] ^= 1u << random() % 8;
}

// Encodes pictures of several kinds and sizes, at efforts that the model may or may not have, and decodes them.
void encode(const ccm_model* model) {
  std::mt19937 random(2);
  for (const auto& [width, height] : {std::pair{1, 1}, {7, 40}, {33, 18}})
    for (int format = CCM_RGB8; format <= CCM_GREY16; ++format)
      for (int effort = 0; effort <= 4; ++effort) {
        const bool colour = format <= CCM_RGB16, wide = format % 2;
        const size_t row = static_cast<size_t>(width) * (colour ? 3 : 1) * (wide ? 2 : 1) + 3 * (wide ? 2 : 1);
        Bytes pixels(row * height);
        for (uint8_t& p : pixels) p = static_cast<uint8_t>(random());
        ccm_encode_options options;
        ccm_encode_options_init(&options);
        options.threads = 2;
        options.effort = effort;
        options.icc = "profile";
        options.icc_size = 7;
        void* data;
        size_t size;
        const ccm_status status = ccm_encode(model, pixels.data(), width, height, static_cast<ccm_format>(format), row,
                                             &options, &data, &size);
        require(status == CCM_OK ? data != nullptr : status == CCM_ARGUMENT && !data, ccm_last_error());
        require(status == CCM_OK || effort != 1, "effort 1 is of all models");
        if (data) {
          const auto* bytes = static_cast<const uint8_t*>(data);
          require(decode(model, Bytes(bytes, bytes + size)) == CCM_OK, ccm_last_error());
        }
        ccm_free(data);
      }
}

bool of_streams(ccm_status s) { return s >= CCM_NOT_CCM && s <= CCM_LIMIT; }

}  // namespace

int main(int argc, char** argv) {
  require(argc == 4, "usage: decode_check WEIGHTS FILE FLIPS");
  const Bytes weights = read_file(argv[1]), file = read_file(argv[2]);
  const int flips = std::atoi(argv[3]);
  ccm_options options;
  ccm_options_init(&options);
  options.threads = 2;
  ccm_model* model;
  require(ccm_model_open_memory(weights.data(), weights.size(), &options, &model) == CCM_OK, ccm_last_error());
  require(decode(model, file) == CCM_OK, ccm_last_error());
  for (size_t n = 0; n < file.size(); ++n)
    require(of_streams(count(decode(model, Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(n))))),
            "a truncated file");
  std::mt19937 random(1);
  for (int k = 0; k < flips; ++k) {
    Bytes bad = file;
    flip(bad, random, 4);
    if (bad != file) require(of_streams(count(decode(model, bad))), "a damaged file");
  }
  encode(model);
  crop(model, file);
  ccm_model_close(model);
  for (int k = 0; k < flips; ++k) {
    Bytes bad = weights;
    if (k % 4 == 0)
      bad.resize(random() % bad.size());
    else if (k % 4 == 1)  // mostly the header
      bad[random() % std::min<size_t>(bad.size(), 9000)] ^= 1u << random() % 8;
    else
      flip(bad, random, 4);
    const ccm_status status = count(ccm_model_open_memory(bad.data(), bad.size(), &options, &model));
    require(status == CCM_OK || status == CCM_BAD_MODEL, "damaged weights");
    require((status == CCM_OK) == (model != nullptr), "a model in spite of a failure, or none");
    if (model) {
      const ccm_status decoded = count(decode(model, file));
      require(decoded == CCM_OK || of_streams(decoded), "a file and damaged weights");
    }
    ccm_model_close(model);
  }
  require(ccm_model_open("no such file", nullptr, &model) == CCM_FILE && !model, "a file that is not there");
  require(ccm_model_open_memory(nullptr, 5, nullptr, &model) == CCM_ARGUMENT, "null");
  require(ccm_decode(nullptr, nullptr, 0, CCM_RGB8, nullptr, 0, nullptr) == CCM_ARGUMENT, "null");
  std::printf("ok");
  for (const auto& [status, times] : seen) std::printf(" %s=%d", ccm_status_name(status), times);
  std::printf("\n");
  return 0;
}
