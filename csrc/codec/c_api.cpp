// The C interface: arguments are checked, exceptions become status codes.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#define CCM_BUILDING
#include "base/error.h"
#include "ccm.h"
#include "codec/codec.h"

struct ccm_model {
  ccm::Codec codec;
};

namespace {

using ccm::Error;
using ccm::ErrorCode;

static_assert(CCM_NOT_CCM == static_cast<int>(ErrorCode::kNotCcm));
static_assert(CCM_TRUNCATED == static_cast<int>(ErrorCode::kTruncated));
static_assert(CCM_DAMAGED == static_cast<int>(ErrorCode::kDamaged));
static_assert(CCM_WRONG_MODEL == static_cast<int>(ErrorCode::kWrongModel));
static_assert(CCM_UNSUPPORTED == static_cast<int>(ErrorCode::kUnsupported));
static_assert(CCM_LIMIT == static_cast<int>(ErrorCode::kLimit));
static_assert(CCM_BAD_MODEL == static_cast<int>(ErrorCode::kModel));
static_assert(CCM_ARGUMENT == static_cast<int>(ErrorCode::kArgument));
static_assert(CCM_FILE == static_cast<int>(ErrorCode::kFile));
static_assert(CCM_ENCODE == static_cast<int>(ErrorCode::kEncode));
static_assert(CCM_MEMORY == static_cast<int>(ErrorCode::kMemory));
static_assert(CCM_INTERNAL == static_cast<int>(ErrorCode::kInternal));
static_assert(CCM_MAX_PIXELS == ccm::kDefaultMaxPixels);

// A message that needs no memory while there is none.
struct LastError {
  char text[512] = "";
  void set(const char* message) { std::strncpy(text, message, sizeof text - 1); }
};

thread_local LastError last_error;

template <class Body>
ccm_status guarded(Body body) {
  last_error.text[0] = '\0';
  try {
    body();
    return CCM_OK;
  } catch (const Error& error) {
    last_error.set(error.what());
    return static_cast<ccm_status>(error.code);
  } catch (const std::bad_alloc&) {
    last_error.set("not enough memory");
    return CCM_MEMORY;
  } catch (const std::exception& error) {
    last_error.set(error.what());
  } catch (...) {
    last_error.set("an unknown failure");
  }
  return CCM_INTERNAL;
}

void need(bool good, const char* what) {
  if (!good) throw Error(ErrorCode::kArgument, what);
}

ccm_options or_defaults(const ccm_options* options) {
  ccm_options out;
  ccm_options_init(&out);
  if (options) out = *options;
  need(out.threads >= 0 && out.threads <= 1024, "threads must lie in 0..1024");
  if (!out.threads) out.threads = ccm::default_threads();
  if (!out.isa) out.isa = "";
  return out;
}

ccm::Span bytes(const void* data, size_t size) {
  need(data || !size, "data is null");
  return {static_cast<const uint8_t*>(data), size};
}

struct Layout {
  int32_t channels, bits;
  uint64_t row_bytes(int64_t width) const { return static_cast<uint64_t>(width * channels * bits / 8); }
};

Layout layout_of(ccm_format format) {
  return {format == CCM_RGB8 || format == CCM_RGB16 ? 3 : 1, format == CCM_RGB8 || format == CCM_GREY8 ? 8 : 16};
}

template <class Read>
ccm_status open_model(const ccm_options* options, ccm_model** model, Read read) {
  return guarded([&] {
    need(model, "model is null");
    *model = nullptr;
    const ccm_options o = or_defaults(options);
    *model = new ccm_model{ccm::Codec(read(), {o.threads, o.float_transforms != 0, o.isa})};
  });
}

}  // namespace

extern "C" {

void ccm_options_init(ccm_options* options) {
  if (options) *options = {0, 0, "", CCM_MAX_PIXELS, 0, 0, 0, 0};
}

const char* ccm_version(void) { return CCM_VERSION; }

const char* ccm_status_name(ccm_status status) {
  constexpr const char* kNames[] = {"CCM_OK",          "CCM_NOT_CCM",     "CCM_TRUNCATED", "CCM_DAMAGED",
                                    "CCM_WRONG_MODEL", "CCM_UNSUPPORTED", "CCM_LIMIT",     "CCM_BAD_MODEL",
                                    "CCM_ARGUMENT",    "CCM_FILE",        "CCM_ENCODE",    "CCM_MEMORY",
                                    "CCM_INTERNAL"};
  return status >= CCM_OK && status <= CCM_INTERNAL ? kNames[status] : "unknown";
}

const char* ccm_last_error(void) { return last_error.text; }

ccm_status ccm_model_open(const char* path, const ccm_options* options, ccm_model** model) {
  return open_model(options, model, [&] {
    need(path, "path is null");
    return ccm::map_file(path, ccm::kMaxWeightsBytes);
  });
}

ccm_status ccm_model_open_memory(const void* data, size_t size, const ccm_options* options, ccm_model** model) {
  return open_model(options, model, [&] {
    const ccm::Span all = bytes(data, size);
    return ccm::copy_of(all.data, all.size);
  });
}

void ccm_model_close(ccm_model* model) { delete model; }

void ccm_model_fingerprint(const ccm_model* model, uint8_t fingerprint[8]) {
  if (model && fingerprint) std::copy_n(model->codec.fingerprint().begin(), 8, fingerprint);
}

ccm_status ccm_read_info(const void* data, size_t size, int64_t max_pixels, ccm_info* info) {
  return guarded([&] {
    need(info, "info is null");
    const ccm::Container container = ccm::parse_container(bytes(data, size));
    const ccm::PacketHead head = ccm::peek_packet(container.packet, max_pixels);
    *info = {head.width, head.height, head.quality(), container.version, head.grey, {}};
    std::copy_n(head.fingerprint.begin(), 8, info->fingerprint);
  });
}

ccm_status ccm_find_chunk(const void* data, size_t size, char kind, const uint8_t** chunk, size_t* chunk_size) {
  return guarded([&] {
    need(chunk && chunk_size, "chunk or chunk_size is null");
    *chunk = nullptr;
    *chunk_size = 0;
    const ccm::Container container = ccm::parse_container(bytes(data, size));
    for (const ccm::Chunk& c : container.chunks)
      if (c.kind == static_cast<uint8_t>(kind)) *chunk = c.data.data, *chunk_size = c.data.size;
  });
}

ccm_status ccm_decode(const ccm_model* model, const void* data, size_t size, ccm_format format, void* pixels,
                      size_t row_bytes, const ccm_options* options) {
  return guarded([&] {
    need(model && pixels, "model or pixels is null");
    need(format >= CCM_RGB8 && format <= CCM_GREY16, "no such format");
    const ccm_options o = or_defaults(options);
    const ccm::Container container = ccm::parse_container(bytes(data, size));
    const ccm::Packet packet = model->codec.parse(container.packet, o.max_pixels);
    const Layout layout = layout_of(format);
    need(layout.channels == 3 || packet.grey, "a colour picture cannot be decoded to grey");
    const ccm::Region whole{0, 0, packet.width, packet.height};
    const bool cropped = o.crop_x || o.crop_y || o.crop_width || o.crop_height;
    const ccm::Region region = cropped ? ccm::Region{o.crop_x, o.crop_y, o.crop_width, o.crop_height} : whole;
    ccm::check_region(region, packet.width, packet.height);
    need(row_bytes >= layout.row_bytes(region.width), "row_bytes is less than a row");
    ccm::PixelSink sink{
        pixels,     static_cast<int64_t>(row_bytes), region.width, region.height, layout.channels, layout.bits,
        packet.grey};
    sink.left = region.x;
    sink.top = region.y;
    const std::optional<ccm::PictureFilter> filter = ccm::filter_of(container, packet.grey);
    ccm::DecodeExtras extras;
    extras.filter = filter ? &*filter : nullptr;
    model->codec.decode(packet, sink, o.threads, extras);
  });
}

ccm_status ccm_decode_latents(const ccm_model* model, const void* data, size_t size, int16_t* latents, size_t capacity,
                              int64_t* h, int64_t* w, int64_t* channels, const ccm_options* options) {
  return guarded([&] {
    need(model && h && w && channels, "model, h, w or channels is null");
    const ccm_options o = or_defaults(options);
    const ccm::Container container = ccm::parse_container(bytes(data, size));
    const ccm::Packet packet = model->codec.parse(container.packet, o.max_pixels);
    *h = packet.h();
    *w = packet.w();
    *channels = model->codec.entropy_model().latent_channels;
    if (!latents) return;
    need(capacity / static_cast<size_t>(*channels) >= static_cast<size_t>(*h * *w), "no room for the latents");
    model->codec.decode_latents(packet, o.threads, {latents});
  });
}

void ccm_encode_options_init(ccm_encode_options* options) {
  if (!options) return;
  *options = {};
  options->quality = 4;
}

ccm_status ccm_encode(const ccm_model* model, const void* pixels, int64_t width, int64_t height, ccm_format format,
                      size_t row_bytes, const ccm_encode_options* options, void** data, size_t* size) {
  return guarded([&] {
    need(data && size, "data or size is null");
    *data = nullptr;
    *size = 0;
    need(model && pixels, "model or pixels is null");
    need(format >= CCM_RGB8 && format <= CCM_GREY16, "no such format");
    ccm_encode_options o;
    ccm_encode_options_init(&o);
    if (options) o = *options;
    need(o.quality >= 1 && o.quality <= 8, "quality must lie in 1 (smallest) to 8 (best)");
    need(o.threads >= 0 && o.threads <= 1024, "threads must lie in 0..1024");
    need(width >= 1 && height >= 1 && width <= ccm::kMaxSide && height <= ccm::kMaxSide, "sides are 1 to 1048576");
    const Layout layout = layout_of(format);
    need(row_bytes >= layout.row_bytes(width), "row_bytes is less than a row");
    ccm::EncodeOptions own;
    own.quality_code = static_cast<int32_t>(std::nearbyint((o.quality - 1) * 32));
    own.effort = o.effort;
    own.lanes = o.lanes;
    own.threads = o.threads ? o.threads : ccm::default_threads();
    std::vector<ccm::Chunk> chunks;
    if (o.icc) chunks.push_back({'I', bytes(o.icc, o.icc_size)});
    if (o.exif) chunks.push_back({'X', bytes(o.exif, o.exif_size)});
    if (o.alpha) chunks.push_back({'A', bytes(o.alpha, o.alpha_size)});
    const std::vector<uint8_t> file = model->codec.encode(
        {pixels, static_cast<int64_t>(row_bytes), width, height, layout.channels, layout.bits}, own, chunks);
    *data = std::malloc(file.size());
    if (!*data) throw std::bad_alloc();
    std::memcpy(*data, file.data(), file.size());
    *size = file.size();
  });
}

void ccm_free(void* data) { std::free(data); }

}  // extern "C"
