// What a machine makes of files and pictures, a line for each. Every machine has to print the same lines with the
// portable kernels, and the same latents with any.
//
//   machine_check WEIGHTS ISA FILE...    decodes the files: size, hash of the latents, hash of the pixels
//   machine_check WEIGHTS ISA encode N   encodes a made-up picture at efforts 1 to N: hash of the file, and all of that
//
// ISA: as in ccm_options; "": the best. Hashes are SHA-256 of little-endian numbers.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "ccm.h"
#include "check.h"

namespace {

using checking::require;
using Bytes = std::vector<uint8_t>;

struct Model {
  ccm_model* model = nullptr;
  ccm_options options;
  ~Model() { ccm_model_close(model); }
};

void good(ccm_status status) {
  if (status != CCM_OK) throw std::runtime_error(std::string(ccm_status_name(status)) + ": " + ccm_last_error());
}

std::string hash(const Bytes& bytes) {
  std::string text;
  for (const uint8_t byte : ccm::sha256(bytes.data(), bytes.size())) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", byte);
    text += hex;
  }
  return text;
}

void decode(const Model& m, const Bytes& file) {
  ccm_info info;
  good(ccm_read_info(file.data(), file.size(), CCM_MAX_PIXELS, &info));
  int64_t h, w, channels;
  good(ccm_decode_latents(m.model, file.data(), file.size(), nullptr, 0, &h, &w, &channels, &m.options));
  std::vector<int16_t> latents(static_cast<size_t>(h * w * channels));
  good(ccm_decode_latents(m.model, file.data(), file.size(), latents.data(), latents.size(), &h, &w, &channels,
                          &m.options));
  Bytes little;
  for (const int16_t v : latents) {
    little.push_back(static_cast<uint8_t>(v));
    little.push_back(static_cast<uint8_t>(static_cast<uint16_t>(v) >> 8));
  }
  const size_t row = static_cast<size_t>(info.width) * (info.grey ? 1 : 3);
  Bytes pixels(row * static_cast<size_t>(info.height));
  good(ccm_decode(m.model, file.data(), file.size(), info.grey ? CCM_GREY8 : CCM_RGB8, pixels.data(), row, &m.options));
  std::printf("%dx%d latents %s pixels %s\n", static_cast<int>(info.width), static_cast<int>(info.height),
              hash(little).c_str(), hash(pixels).c_str());
}

// Waves with some noise, of whole numbers alone.
Bytes picture(int width, int height) {
  Bytes pixels;
  uint32_t seed = 1;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        const int wave = (x * (2 + c) + y * (5 - c)) % 96, noise = static_cast<int>((seed = seed * 1664525 + 1) >> 29);
        pixels.push_back(static_cast<uint8_t>(40 + 3 * (wave < 48 ? wave : 95 - wave) + noise));
      }
  return pixels;
}

void encode(const Model& m, int most_effort) {
  for (int effort = 1; effort <= most_effort; ++effort)
    for (const double quality : {1.0, 4.5, 8.0}) {
      const int width = 53, height = 37;
      ccm_encode_options options;
      ccm_encode_options_init(&options);
      options.quality = quality;
      options.effort = effort;
      options.threads = 1;
      void* data;
      size_t size;
      good(ccm_encode(m.model, picture(width, height).data(), width, height, CCM_RGB8, 3 * width, &options, &data,
                      &size));
      const Bytes file(static_cast<uint8_t*>(data), static_cast<uint8_t*>(data) + size);
      ccm_free(data);
      std::printf("effort %d quality %.1f: %d bytes %s ", effort, quality, static_cast<int>(size), hash(file).c_str());
      decode(m, file);
    }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    require(argc >= 4 && (argv[3] != std::string("encode") || argc == 5),
            "usage: machine_check WEIGHTS ISA FILE... | encode N");
    Model m;
    ccm_options_init(&m.options);
    m.options.isa = argv[2];
    m.options.threads = 2;
    good(ccm_model_open(argv[1], &m.options, &m.model));
    if (argv[3] == std::string("encode")) return encode(m, std::atoi(argv[4])), 0;
    for (int k = 3; k < argc; ++k) decode(m, checking::read_file(argv[k]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
