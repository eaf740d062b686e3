// Sizes, scratch memory and the order of launches. Host code: the same for nvcc's kernels and for the emulator's.
#include "entropy/cuda/engine_cuda.h"

#include <algorithm>

#include "entropy/cuda/kernels_cuda.h"
#include "entropy/cuda/plane.cuh"
#include "entropy/cuda/tiles.h"
#include "format/rans.h"

namespace ccm {
namespace {

constexpr int32_t kMaxKnownTiles = 4096;  // 16 kB; larger planes ask again at every step

constexpr int32_t kChunkTileBytes = kTileM * kChunk * 4;  // accumulators of a tile of channels

int64_t align(int64_t n) { return (n + 255) / 256 * 256; }

struct Device {
  int32_t multiprocessors = 1, shared = 48 * 1024, threads = kMaxThreads;  // of latents_kernel
};

// Attributes of the current device; cudaDeviceGetAttribute costs a microsecond at most and does not synchronise.
cudaError_t current_device(Device& d) {
  int device = 0, value = 0;
  if (cudaError_t e = cudaGetDevice(&device)) return e;
  if (cudaError_t e = cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device)) return e;
  d.multiprocessors = value;
  if (cudaError_t e = cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return e;
  d.shared = value;
  if (cudaError_t e = cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, device)) return e;
  if (value >= kWideMajor) d.threads = kMaxThreadsWide;
  return cudaSuccess;
}

// At least as many positions as the longest step of a plane.
int64_t longest_step(const Schedule& s, int32_t h, int32_t w) {
  if (s.row_step <= 0 || s.col_step <= 0) return static_cast<int64_t>(h) * w;
  const int64_t rows = (w - 1) * static_cast<int64_t>(s.col_step) / s.row_step + 1;
  const int64_t columns = (h - 1) * static_cast<int64_t>(s.row_step) / s.col_step + 1;
  return s.ph * s.pw * std::min({rows, columns, static_cast<int64_t>(h), static_cast<int64_t>(w)});
}

ArenaLayout arena_layout(const DeviceModel& m, int32_t tiles) {
  int32_t channels = 0, depth = 0, ahead = 0, quads = 0;
  for (int32_t g = 0; g < m.groups; ++g) {
    const DeviceGroup& d = m.group[g];
    channels = std::max(channels, d.channels);
    if (d.spatial.m_tiles <= kMostAhead) ahead = std::max(ahead, d.spatial.m_tiles);
    depth = std::max(depth, d.head.k_steps);
    quads = std::max(quads, d.spatial.k_steps * 8 + kMoreQuads);
    for (int32_t l = 0; l < d.hidden_layers; ++l) depth = std::max(depth, d.hidden[l].k_steps);
  }
  ArenaLayout l{};
  int32_t at = 0;
  const auto take = [&](int64_t bytes) {
    const int32_t here = at;
    at += static_cast<int32_t>((bytes + 15) / 16 * 16);
    return here;
  };
  // Positions 16 bytes more than a multiple of 32 apart: the eight that a warp reads at once lie in different banks.
  l.feature_stride = depth * kTileK + 16;
  l.feature_bytes = kChunk * l.feature_stride;
  l.features = take(2 * l.feature_bytes);
  const int64_t symbols = static_cast<int64_t>(kChunk) * channels;
  l.mean = take(2 * symbols);
  l.scale = take(symbols + 16);  // read 32 at once
  l.listed = take(6 * 4);
  l.words = take(kMostSequences * kRingWords * 2);
  l.ahead = take(ahead * kChunkTileBytes);
  l.ahead_steps = take(4 * kMostAhead);
  l.scale_rows = take(kNumScales * sizeof(ScaleRow));
  l.positions = take(4 * kChunk);
  l.layers = take((kMaxLayers + 2) * kStepLayerBytes);
  l.offsets = take(4 * quads);
  l.decoders = take(kMostSequences * 32 * kDecoderBytes);
  l.planes = take(kPlanesBytes);
  l.stop = take(4);
  l.bad = take(4);
  l.coded = take(4);
  l.known = tiles <= kMaxKnownTiles ? take(4 * tiles) : 0;
  l.bytes = at;
  return l;
}

struct Plan {
  LatentsArgs args{};
  int32_t threads = 0, blocks = 0;
  int64_t scratch = 0;
};

// Bytes of shared memory for 1 / parts of the weights and numbers of a group's step.
int64_t step_weights(const DeviceGroup& d, int32_t parts) {
  int64_t all = 0;
  const auto add = [&](const DeviceConv& c) {
    all += static_cast<int64_t>(tile_count(c.m_tiles, parts)) * (c.k_steps * 512 + kTileM * sizeof(ChannelNumbers));
  };
  add(d.spatial);
  for (int32_t l = 0; l < d.hidden_layers; ++l) add(d.hidden[l]);
  if (d.spatial.output != kHead) add(d.head);
  return all;
}

// Whether others can compute a group's networks: it has a context of its own, of steps before.
bool may_have_crew(const DeviceGroup& d) { return d.spatial.k_steps > 0 && !d.within_step; }

// Crews for groups whose steps have several chunks, or whose weights are too many for the shared memory of two blocks,
// as far as `spare` blocks go; see crew.cuh.
void plan_crew(const DeviceModel& m, const LaunchOptions& options, int32_t available, int32_t spare, LatentsArgs& a) {
  constexpr int32_t kLeastParts = 3, kLongTable = 4096;
  CrewLayout& c = a.crew;
  if (options.crew == 0 || a.tables < 0) return;
  int32_t channels = 0, most_tiles = 0;
  int64_t chunks = 1;
  c.stride = 16;
  for (int32_t g = 0; g < m.groups; ++g) {
    const DeviceGroup& d = m.group[g];
    if (!may_have_crew(d)) continue;
    c.groups |= 1u << g;
    channels = std::max(channels, d.channels);
    c.stride = std::max(c.stride, d.spatial.k_steps * kTileK + 16);
    c.layers = std::max(c.layers, d.hidden_layers + 1);
    chunks = std::max(chunks, (longest_step(m.schedule[g], a.h, a.w) + kChunk - 1) / kChunk);
    most_tiles = std::max(most_tiles, d.spatial.m_tiles);
  }
  c.rows = a.arena.bytes;
  const int32_t behind = c.rows + kChunk * c.stride,
                table = m.scale_codes <= kLongTable ? (m.scale_codes + 15) / 16 * 16 : 0;
  c.table = table ? behind : -1;
  c.ahead = behind + table;
  const auto weights_at = [&](int32_t parts) { return c.ahead + tile_count(most_tiles, parts) * kChunkTileBytes; };
  const auto fits = [&](int32_t g, int32_t parts) {
    return weights_at(parts) + step_weights(m.group[g], parts) <= available;
  };
  c.slots = static_cast<int32_t>(std::min<int64_t>(chunks, CrewCounters::kMostSlots));
  c.parts = 1;
  if (options.crew > 0) {
    c.parts = std::min(options.crew & 255, CrewCounters::kMostParts);
    c.slots = std::min(options.crew >> 8, CrewCounters::kMostSlots);
  } else {
    uint32_t useful = 0;
    int32_t count = 0;
    for (int32_t g = 0; g < m.groups; ++g) {
      if (!(c.groups >> g & 1)) continue;
      int32_t parts = 1;
      while (parts < CrewCounters::kMostParts && !fits(g, parts)) ++parts;
      if (parts < kLeastParts) parts = 1;
      if (parts == 1 && longest_step(m.schedule[g], a.h, a.w) <= kChunk) continue;
      useful |= 1u << g;
      ++count;
      c.parts = std::max(c.parts, parts);
    }
    c.groups = useful;
    const int32_t each = count ? spare / (a.batch * count) : 0;  // blocks for each of them
    const int32_t least = std::min(c.parts, kLeastParts);
    while (c.slots > 1 && c.slots * c.parts > each) --c.slots;
    c.parts = std::min(c.parts, each);
    if (c.parts < least || c.parts * c.slots < 2) c.groups = 0;
  }
  c.weights = c.groups ? weights_at(c.parts) : 0;
  if (c.weights > available) c.groups = 0;
  if (!c.groups) return;
  c.per_part = reciprocal(static_cast<uint32_t>(c.parts));
  c.per_slot = reciprocal(static_cast<uint32_t>(c.slots));
  c.turns = static_cast<int32_t>((chunks + c.slots - 1) / c.slots);
  c.counters = a.progress_stride;
  a.progress_stride += CrewCounters::kCount;
  c.scales = a.arena.scale - a.arena.mean;
  c.parameters = c.scales + kChunk * channels;
  c.features = static_cast<int32_t>(chunks) * c.parameters;
  c.bytes =
      align(c.features + (c.parts > 1 ? static_cast<int64_t>(c.slots) * 2 * c.layers * a.arena.feature_bytes : 0));
}

// Fills everything but pointers, which become offsets from `scratch`.
cudaError_t plan_latents(const DeviceModel& m, int32_t batch, int32_t h, int32_t w, const LaunchOptions& options,
                         uint8_t* scratch, Plan& plan) {
  Device device;
  if (cudaError_t e = current_device(device)) return e;
  LatentsArgs& a = plan.args;
  a.batch = batch;
  a.groups = m.groups;
  a.per_image = reciprocal(static_cast<uint32_t>(std::max(1, batch)));
  a.h = h;
  a.w = w;
  a.tiles = tile_count(h + m.most_shift, kDenseRows) * tile_count(w + m.most_shift, kDenseColumns);
  a.psi_stride = m.group[0].hyper.cin_pad;
  a.context_bytes = plane_bytes(h, w, m.plane_channels);
  a.psi_bytes = plane_bytes(h, w, a.psi_stride);
  int32_t layers = 1;
  for (int32_t g = 0; g < m.groups; ++g) {
    const DeviceGroup& d = m.group[g];
    for (int32_t l = 0; l + 1 < d.stack_layers; ++l) a.features_bytes += plane_bytes(h, w, d.stack[l + 1].cin_pad);
    a.base_count += static_cast<int64_t>(h) * w * d.base_pad;
    layers = std::max(layers, chasing_layers(d));
  }
  a.progress_stride = GroupProgress::kFlags + layers * a.tiles;

  plan.threads = options.threads ? std::min(options.threads, device.threads) : device.threads;
  const int32_t available = std::min(device.shared - 1024, options.shared >= 0 ? options.shared : device.shared);
  a.arena = arena_layout(m, a.tiles);
  int32_t list = 0;
  for (int32_t g = 0; g < m.groups; ++g) list = std::max(list, ListLayout::of(m.group[g].channels).bytes);
  a.arena_in_shared = a.arena.bytes + list <= available;
  const int64_t tables = m.y_rows.window_bytes();
  a.tables = a.arena_in_shared && a.arena.bytes + tables + list <= available ? a.arena.bytes : -1;
  a.lists = a.arena.bytes + (a.tables >= 0 ? static_cast<int32_t>(tables) : 0);
  a.arena_bytes = a.arena.bytes + list;
  const int64_t coders = static_cast<int64_t>(batch) * m.groups;
  const int64_t spare = (options.blocks ? options.blocks : device.multiprocessors) - coders;
  plan_crew(m, options, available, static_cast<int32_t>(std::max<int64_t>(0, spare)), a);
  int64_t wanted = 0;  // with all of the weights and numbers of any group
  for (int32_t g = 0; g < m.groups; ++g) {
    const DeviceGroup& d = m.group[g];
    const int32_t bytes = ListLayout::of(d.channels).bytes;
    // Writing a list while the one before is decoded: in groups without own context, and in steps of several chunks, if
    // beside the decoder a warp is there for each tile of the sums of contexts.
    const bool crew = a.crew.groups >> g & 1;
    const bool many = longest_step(m.schedule[g], h, w) > kChunk && (crew || d.spatial.m_tiles < plan.threads / 32);
    const bool beside = d.spatial.k_steps == 0 || many;
    if (beside && a.tables >= 0 && a.lists + 2 * bytes <= available) a.two_lists |= 1u << g;
    int64_t all = a.arena_in_shared ? a.lists + bytes * (a.two_lists >> g & 1 ? 2 : 1) : 0;
    wanted = std::max(wanted, all + step_weights(d, 1));
    if (crew) wanted = std::max(wanted, a.crew.weights + step_weights(d, a.crew.parts));
  }
  a.shared = static_cast<int32_t>(std::min<int64_t>(available, wanted));
  int32_t resident = 0;
  if (cudaError_t e = latents_occupancy(a, plan.threads, &resident)) return e;
  // A block for every group, and for the dense part as many as fit beside them.
  const int64_t useful = coders * (1 + a.tiles + (a.crew.groups ? a.crew.members() : 0));
  const int64_t at_once = static_cast<int64_t>(device.multiprocessors) * std::max(1, resident);
  plan.blocks = options.blocks ? options.blocks : static_cast<int32_t>(std::min(useful, at_once));

  int64_t at = 0;
  const auto take = [&](int64_t bytes) {
    uint8_t* const here = scratch + at;
    at += align(bytes);
    return here;
  };
  a.context = take(batch * a.context_bytes);
  a.psi_plane = take(batch * a.psi_bytes);
  a.features = take(batch * a.features_bytes);
  a.base = reinterpret_cast<int32_t*>(take(batch * a.base_count * 4));
  a.progress =
      reinterpret_cast<int32_t*>(take(4 * (1 + batch + static_cast<int64_t>(batch) * m.groups * a.progress_stride)));
  a.exchange = take(a.crew.groups ? coders * a.crew.bytes : 0);
  a.arenas = take(a.arena_in_shared ? 0 : static_cast<int64_t>(plan.blocks) * a.arena_bytes);
  plan.scratch = at;
  return cudaSuccess;
}

cudaError_t run_latents(const DeviceModel& m, Plan& plan, cudaStream_t stream) {
  Device device;
  if (cudaError_t e = current_device(device)) return e;
  const LatentsArgs& a = plan.args;
  if (cudaError_t e = launch_prepare(a, std::max(1, std::min(a.h, 4 * device.multiprocessors)), plan.threads, stream))
    return e;
  if (cudaError_t e = launch_base(a, m.groups, plan.threads, stream)) return e;
  if (cudaError_t e = launch_latents(a, plan.blocks, plan.threads, stream)) return e;
  return launch_status(a, stream);
}

}  // namespace

int64_t hyper_scratch(const DeviceModel& m, int32_t batch, int32_t hz, int32_t wz) {
  int64_t bytes = 0;
  for (int32_t l = 0, h = hz, w = wz; l < m.hs_layers; h *= m.hs[l].upsample, w *= m.hs[l].upsample, ++l)
    bytes += plane_bytes(h, w, m.hs[l].cin_pad);
  return batch * bytes;
}

cudaError_t hyper(const DeviceModel& host, const DeviceModel* model, const int16_t* z, int32_t batch, int32_t h,
                  int32_t w, uint8_t* psi, uint8_t* scratch, const LaunchOptions& options, cudaStream_t stream) {
  const int32_t hz = tile_count(h, 4), wz = tile_count(w, 4), threads = options.threads ? options.threads : 256;
  const HyperArgs a{model, z, psi, scratch, hyper_scratch(host, 1, hz, wz), batch, h, w, hz, wz};
  if (cudaError_t e = launch_prepare_hyper(a, std::max(1, h), threads, stream)) return e;
  for (int32_t l = 0, rows = hz, cols = wz; l < host.hs_layers; ++l) {
    if (cudaError_t e = launch_hyper(a, l, rows, cols, threads, stream)) return e;
    rows *= host.hs[l].upsample;
    cols *= host.hs[l].upsample;
  }
  return cudaSuccess;
}

cudaError_t decode_z(const DeviceModel* model, const uint8_t* data, int64_t size, const int64_t* segments,
                     int32_t batch, int32_t hz, int32_t wz, int16_t* z, int32_t* status, const LaunchOptions& options,
                     cudaStream_t stream) {
  const DecodeZArgs a{model, data, size, segments, z, status, batch, hz * wz};
  // A power of two, as its kernel wants.
  return launch_decode_z(a, options.threads && options.threads < 128 ? 64 : 128, stream);
}

int64_t latents_scratch(const DeviceModel& host, int32_t batch, int32_t h, int32_t w, const LaunchOptions& options) {
  Plan plan;
  return plan_latents(host, batch, h, w, options, nullptr, plan) ? -1 : plan.scratch;
}

cudaError_t decode_y(const DeviceModel& host, const DeviceModel* model, const OrderView& order, const uint8_t* psi,
                     const uint8_t* data, int64_t size, const int64_t* segments, int32_t batch, int32_t h, int32_t w,
                     int16_t* y, int32_t* status, const Restoring& restoring, uint8_t* scratch,
                     const LaunchOptions& options, cudaStream_t stream) {
  Plan plan;
  if (cudaError_t e = plan_latents(host, batch, h, w, options, scratch, plan)) return e;
  LatentsArgs& a = plan.args;
  a.model = model;
  a.order = order;
  a.psi = psi;
  a.data = data;
  a.size = size;
  a.segments = segments;
  a.y = y;
  a.status = status;
  // Places of shifts lie where the values will: of as many bytes each.
  a.places = restoring.shifts ? reinterpret_cast<int32_t*>(restoring.values) : nullptr;
  a.reach = restoring.reach;
  if (cudaError_t e = run_latents(host, plan, stream)) return e;
  if (!restoring.shifts) return cudaSuccess;
  const RestoreArgs restore{
      y, status, restoring.shifts, restoring.values, batch, static_cast<int64_t>(h) * w * host.latent_channels};
  return launch_restore(restore, stream);
}

// A symbol takes three words at most: its entry, an escape's length, an escape's low bits. States, flags and a length
// of each sequence.
int64_t stream_capacity(int64_t symbols) { return align(6 * symbols + kMostSequences * (kMaxLanes * kStateBytes + 9)); }

int64_t encode_y_scratch(const DeviceModel& host, int32_t batch, int32_t h, int32_t w, const LaunchOptions& options) {
  const int64_t latents = latents_scratch(host, batch, h, w, options);
  const int64_t positions = static_cast<int64_t>(batch) * h * w;
  return latents < 0 ? latents
                     : latents + align(positions * host.latent_channels * 8) + align(positions * host.groups * 4);
}

cudaError_t encode_y(const DeviceModel& host, const DeviceModel* model, const OrderView& order, const uint8_t* psi,
                     const void* y, int32_t batch, int32_t h, int32_t w, int32_t lanes, int16_t* y_hat,
                     const EncodeBuffers& out, uint8_t* scratch, const LaunchOptions& options, cudaStream_t stream) {
  Plan plan;
  if (cudaError_t e = plan_latents(host, batch, h, w, options, scratch, plan)) return e;
  LatentsArgs& a = plan.args;
  a.model = model;
  a.order = order;
  a.encoding = 1;
  a.given = y;
  a.psi = psi;
  a.y = y_hat;
  a.status = out.status;
  a.coded = reinterpret_cast<uint64_t*>(scratch + plan.scratch);
  a.ends = reinterpret_cast<int32_t*>(scratch + plan.scratch +
                                      align(static_cast<int64_t>(batch) * h * w * host.latent_channels * 8));
  if (cudaError_t e = run_latents(host, plan, stream)) return e;
  if (!out.data) return cudaSuccess;
  const EncodeArgs encode{model, order, a.coded, a.ends, nullptr, h * w, batch, lanes, kLanesOfY, out.status, out};
  return launch_encode(encode, host.groups, stream);
}

cudaError_t encode_z(const DeviceModel* model, const int16_t* z, int32_t batch, int32_t hz, int32_t wz, int32_t lanes,
                     const EncodeBuffers& out, cudaStream_t stream) {
  const EncodeArgs encode{model, {}, nullptr, nullptr, z, hz * wz, batch, lanes, kLanesOfZ, nullptr, out};
  return launch_encode(encode, 1, stream);
}

}  // namespace ccm
