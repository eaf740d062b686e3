// What a web page calls (docs/viewer/ccm.js): one model, one picture at a time, plain numbers and pointers. Everything
// goes through ccm.h.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "ccm.h"

#define CCM_WEB extern "C" __attribute__((used, visibility("default")))

namespace {

ccm_model* model = nullptr;
ccm_info info;
std::vector<uint8_t> rgba;
std::string hash, fingerprint;

constexpr char kDigits[] = "0123456789abcdef";

std::string hexadecimal(const uint8_t* bytes, size_t size) {
  std::string text;
  for (size_t k = 0; k < size; ++k) text += {kDigits[bytes[k] >> 4], kDigits[bytes[k] & 15]};
  return text;
}

ccm_options one_thread() {
  ccm_options options;
  ccm_options_init(&options);
  options.threads = 1;
  return options;
}

ccm_status hash_latents(const void* file, size_t size, const ccm_options& options) {
  int64_t h, w, channels;
  ccm_status status = ccm_decode_latents(model, file, size, nullptr, 0, &h, &w, &channels, &options);
  if (status != CCM_OK) return status;
  std::vector<int16_t> latents(static_cast<size_t>(h * w * channels));
  status = ccm_decode_latents(model, file, size, latents.data(), latents.size(), &h, &w, &channels, &options);
  if (status != CCM_OK) return status;
  // WebAssembly is little-endian.
  const auto digest = ccm::sha256(reinterpret_cast<const uint8_t*>(latents.data()), 2 * latents.size());
  hash = hexadecimal(digest.data(), digest.size());
  return CCM_OK;
}

}  // namespace

// The caller frees it with ccm_web_free().
CCM_WEB void* ccm_web_alloc(size_t size) { return std::malloc(size); }
CCM_WEB void ccm_web_free(void* data) { std::free(data); }

// A ccm_status; afterwards ccm_web_fingerprint() is that of the model which the file was written with.
CCM_WEB int ccm_web_model_of(const void* file, size_t size) {
  ccm_info found;
  const ccm_status status = ccm_read_info(file, size, one_thread().max_pixels, &found);
  if (status == CCM_OK) fingerprint = hexadecimal(found.fingerprint, sizeof(found.fingerprint));
  return status;
}

// A ccm_status. The bytes are copied.
CCM_WEB int ccm_web_open(const void* weights, size_t size) {
  ccm_model_close(model);
  model = nullptr;
  const ccm_options options = one_thread();
  return ccm_model_open_memory(weights, size, &options, &model);
}

// A ccm_status; afterwards the functions below tell of the picture.
CCM_WEB int ccm_web_decode(const void* file, size_t size) {
  const ccm_options options = one_thread();
  ccm_status status = ccm_read_info(file, size, options.max_pixels, &info);
  if (status != CCM_OK) return status;
  const size_t pixels = static_cast<size_t>(info.width * info.height), row = static_cast<size_t>(info.width) * 3;
  std::vector<uint8_t> rgb(3 * pixels);
  status = ccm_decode(model, file, size, CCM_RGB8, rgb.data(), row, &options);
  if (status != CCM_OK) return status;
  rgba.resize(4 * pixels);
  for (size_t p = 0; p < pixels; ++p) {
    for (size_t c = 0; c < 3; ++c) rgba[4 * p + c] = rgb[3 * p + c];
    rgba[4 * p + 3] = 255;
  }
  return CCM_OK;
}

// SHA-256 of the latents of a file; decodes them. A ccm_status.
CCM_WEB int ccm_web_hash(const void* file, size_t size) { return hash_latents(file, size, one_thread()); }

CCM_WEB int ccm_web_width() { return static_cast<int>(info.width); }
CCM_WEB int ccm_web_height() { return static_cast<int>(info.height); }
CCM_WEB double ccm_web_quality() { return info.quality; }
CCM_WEB const uint8_t* ccm_web_pixels() { return rgba.data(); }
CCM_WEB const char* ccm_web_latents() { return hash.c_str(); }
CCM_WEB const char* ccm_web_fingerprint() { return fingerprint.c_str(); }
CCM_WEB const char* ccm_web_error() { return ccm_last_error(); }
