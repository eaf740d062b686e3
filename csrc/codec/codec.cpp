#include "codec/codec.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/cpu.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/sha256.h"
#include "base/threads.h"
#include "codec/centroids.h"
#include "codec/stopwatch.h"
#include "container/write.h"
#include "entropy/cpu/context_cpu.h"
#include "entropy/cpu/pack.h"
#include "transforms/transform.h"

namespace ccm {
namespace {

// About which share of the time has gone by when a stage of decoding ends: 24 megapixels.
constexpr double kHyperEnds = 0.06, kEntropyEnds = 0.25;

[[noreturn]] void bad_model(const std::string& why) { throw Error(ErrorCode::kModel, why); }

std::string hex(const Fingerprint& f) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string s;
  for (uint8_t b : f) s += {kDigits[b >> 4], kDigits[b & 15]};
  return s;
}

// The entropy model must belong to the transforms.
void check_fit(const PackedModel& m, const ModelConfig& c) {
  bool same = m.groups == static_cast<int32_t>(c.groups.size()) && m.hyper_channels == c.hyper_channels;
  for (int32_t g = 0; same && g < m.groups; ++g) same = m.group[g].channels == c.groups[g];
  if (!same) bad_model("the frozen entropy model does not belong to the configuration");
  if (m.residual) bad_model("an entropy model that codes residuals, which only accelerated nets of CompressAI have");
}

// Throws for what a decoder of z or y has found.
void check_status(Status status, const char* name) {
  if (status == kTruncated)
    throw Error(ErrorCode::kTruncated, std::string("a stream of ") + name + " ends before its last symbol");
  if (status != kOk) throw Error(ErrorCode::kDamaged, std::string("a stream of ") + name + " is damaged");
}

bool takes_int16(const CodecOptions& options) {
  return !options.float_transforms && transform_kernels().winograd_int16 != nullptr;
}

Segment segment(const Stream& s) { return {s.data.data, static_cast<int64_t>(s.data.size), s.code}; }

}  // namespace

std::optional<PictureFilter> filter_of(const Container& container, bool grey) {
  for (const Chunk& c : container.chunks)
    if (c.kind == kFilterChunk) return parse_filter(c.data, grey ? 1 : 3);
  return std::nullopt;
}

int default_threads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 1024u)); }

void check_region(const Region& region, int64_t width, int64_t height) {
  const auto inside = [](int64_t first, int64_t count, int64_t all) {
    return first >= 0 && count >= 1 && count <= all && first <= all - count;
  };
  if (inside(region.x, region.width, width) && inside(region.y, region.height, height)) return;
  const auto size = [](int64_t w, int64_t h) { return std::to_string(w) + "x" + std::to_string(h); };
  throw Error(ErrorCode::kArgument, "the region of " + size(region.width, region.height) + " pixels at (" +
                                        std::to_string(region.x) + ", " + std::to_string(region.y) +
                                        ") does not lie within the picture of " + size(width, height));
}

Codec::Codec(Bytes weights, const CodecOptions& options)
    : file_(std::move(weights)), int16_(takes_int16(options)), synthesis_(file_, int16_) {
  const Kernels* kernels = kernels_by_name(options.isa);
  if (!kernels)
    throw Error(ErrorCode::kArgument,
                std::string("instruction set '") + (*options.isa ? options.isa : isa_limit()) + "' is not usable here");
  std::vector<std::function<void()>> work = synthesis_.packing();
  work.insert(work.begin(), [&] { plan_ = pack_plan(file_.plan(), file_.plan_size(), *kernels); });
  work.push_back([&] {
    const auto digest = sha256(file_.plan(), file_.plan_size());
    std::copy_n(digest.begin(), fingerprint_.size(), fingerprint_.begin());
  });
  try {
    parallel_for(options.threads, static_cast<int64_t>(work.size()), [&](int64_t k) { work[k](); });
  } catch (const PlanError& error) {
    bad_model(error.what());
  }
  const PackedModel& m = entropy_model();
  check_fit(m, file_.config());
  means_ = row_means(m);
  if (!file_.config().centroid) return;
  shifts_ = file_.shifts(m.y_rows.count, 2 * kShiftReach + 1);
  if (shifts_.empty()) shifts_ = gaussian_shifts(m);
}

Packet Codec::parse(Span packet, int64_t max_pixels) const { return parse(packet, max_pixels, -1); }

Packet Codec::parse(Span packet, int64_t max_pixels, int32_t groups) const {
  const PacketHead head = peek_packet(packet, max_pixels);
  if (head.fingerprint != fingerprint_)
    throw Error(ErrorCode::kWrongModel, "the stream was written with the model " + hex(head.fingerprint) +
                                            "; this one is " + hex(fingerprint_));
  const int32_t all = entropy_model().groups;
  if (groups > all)
    throw Error(ErrorCode::kArgument,
                std::to_string(groups) + " groups are asked for; this model has " + std::to_string(all));
  Packet parsed = groups < 0 || groups == all ? parse_packet(packet, all, max_pixels)
                                              : parse_preview(packet, all, groups, max_pixels);
  if (parsed.version < entropy_model().least_version())
    throw Error(ErrorCode::kDamaged, "streams of version 1 cannot be of this model");
  return parsed;
}

void Codec::decode(const Packet& packet, const PixelSink& sink, int threads, const DecodeExtras& extras) const {
  // Reduced pictures are made of the coarse channels alone.
  const int32_t groups = entropy_model().groups - (sink.reduce > 1 && file_.config().fine);
  // Filters are of the whole picture at full size.
  const PictureFilter* filter =
      sink.reduce == 1 && packet.groups_read == entropy_model().groups ? extras.filter : nullptr;
  const Window read = synthesis_.latents(packet.h(), packet.w(), sink, filter);
  const FloatBuffer values = decode_groups(packet, groups, read, threads, extras);
  const Stopwatch watch(extras.times ? &extras.times->synthesis : nullptr);
  const Portion portion(kEntropyEnds, 1.0);
  const LatentPlane y{values.data(), packet.h(), packet.w(), read};
  if (filter)
    synthesis_.run_filtered(y, packet.quality_code, sink, packet.height, packet.width, *filter, threads);
  else
    synthesis_.run(y, packet.quality_code, sink, threads);
}

FloatBuffer Codec::decode_latents(const Packet& packet, int threads, const DecodeExtras& extras) const {
  return decode_groups(packet, entropy_model().groups, {0, packet.h(), 0, packet.w()}, threads, extras);
}

FloatBuffer Codec::decode_groups(const Packet& packet, int32_t groups, const Window& wanted, int threads,
                                 const DecodeExtras& extras) const {
  const PackedModel& m = entropy_model();
  const auto h = static_cast<int32_t>(packet.h()), w = static_cast<int32_t>(packet.w());
  const auto hz = static_cast<int32_t>(packet.hz()), wz = static_cast<int32_t>(packet.wz());
  const int64_t plane = int64_t{h} * w;
  if (plane * m.latent_channels >= int64_t{1} << 31)
    throw Error(ErrorCode::kLimit,
                "a plane of " + std::to_string(h) + "x" + std::to_string(w) + " latents cannot be coded as one image");
  DecodeTimes unused;
  DecodeTimes& times = extras.times ? *extras.times : unused;
  // Not cleared: memory that is not written yet costs nothing, and a stream may end early.
  const std::unique_ptr<int16_t[]> z(new int16_t[static_cast<size_t>(hz) * wz * m.hyper_channels]);
  {
    const Stopwatch watch(&times.z);
    const Portion portion(0.0, 0.0);
    check_status(decode_z(m, segment(packet.streams[0]), hz, wz, z.get()), "z");
  }
  const std::unique_ptr<uint8_t[]> psi(new uint8_t[static_cast<size_t>(plane * m.psi_channels)]);
  {
    const Stopwatch watch(&times.hyper);
    const Portion portion(0.0, kHyperEnds);
    hyper(m, z.get(), hz, wz, h, w, threads, psi.get());
  }
  FloatBuffer values(static_cast<size_t>(wanted.height() * wanted.width() * m.latent_channels));
  {
    const Stopwatch watch(&times.entropy);
    const Portion portion(kHyperEnds, kEntropyEnds);
    std::vector<Segment> streams;
    for (int32_t g = 0; g < m.groups; ++g) streams.push_back(segment(packet.streams[g + 1]));
    DecodeJob job{psi.get(), streams.data(), extras.latents, kOk};
    job.values = values.data();
    job.wanted = {static_cast<int32_t>(wanted.i0), static_cast<int32_t>(wanted.j0),
                  static_cast<int32_t>(wanted.height()), static_cast<int32_t>(wanted.width())};
    job.shifts = shifts_.empty() ? nullptr : shifts_.data();
    job.groups_read = packet.groups_read;
    job.means = means_.data();
    std::vector<DecodeJob> jobs{job};
    decode_y(m, h, w, threads, jobs, groups);
    check_status(jobs[0].status, "y");
  }
  return values;
}

const Encoder& Codec::encoder(int threads) const {
  const std::lock_guard<std::mutex> lock(encoder_mutex_);
  if (!encoder_) {
    auto made = std::make_unique<Encoder>(file_, entropy_model(), synthesis_, shifts_, int16_);
    const Portion portion(0.0, 0.0);  // of the picture nothing is done yet
    const std::vector<std::function<void()>> work = made->packing();
    parallel_for(threads, static_cast<int64_t>(work.size()), [&](int64_t k) { work[k](); });
    encoder_ = std::move(made);
  }
  return *encoder_;
}

std::vector<uint8_t> Codec::encode(const PixelSource& pixels, const EncodeOptions& options,
                                   const std::vector<Chunk>& chunks, EncodeTimes* times) const {
  if (options.quality_code < 0 || options.quality_code > kMaxQualityCode)
    throw Error(ErrorCode::kArgument, "quality must lie in 1 (smallest) to 8 (best)");
  EncodeTimes unused;
  const EncodedPicture picture = encoder(options.threads).encode(pixels, options, times ? *times : unused);
  PacketHead head;
  head.width = pixels.width;
  head.height = pixels.height;
  head.quality_code = options.quality_code;
  head.fingerprint = fingerprint_;
  head.grey = pixels.channels == 1;
  std::vector<Stream> views;
  for (const EncodedStream& s : picture.streams) views.push_back({{s.bytes.data(), s.bytes.size()}, s.code});
  std::vector<Chunk> all;
  for (const Chunk& c : chunks)
    if (c.kind != kFilterChunk) all.push_back(c);  // of another file: its filter is not this one's
  if (!picture.filter.empty()) all.push_back({kFilterChunk, {picture.filter.data(), picture.filter.size()}});
  return write_file(head, views, all);
}

}  // namespace ccm
