// The dense part of a group, which follows the group before it tile by tile.
//
// Any block may compute any tile, but claims it only when everything that it reads is there, so that no block ever
// waits inside a tile. The block that codes a group computes its tiles itself while it has to wait for them. Hence
// nothing depends on how many blocks run at once: groups are taken in order (tickets), a group waits for earlier ones
// only, and a single block finds every tile ready.
#pragma once
#include "entropy/cuda/dense.cuh"
#include "entropy/cuda/latents.h"

namespace ccm {

// Tells other blocks that what this block has written is there; one thread, after a barrier.
CCM_DEVICE void announce(int32_t* flag, int32_t value) {
#if CCM_FAULT == 2
  st_relaxed(flag, value);
#else
  st_release(flag, value);
#endif
}

// The planes of one group of one image.
struct GroupPlanes {
  const LatentsArgs& a;
  const DeviceModel& m;
  const DeviceGroup& d;
  int32_t image, group;

  CCM_DEVICE GroupPlanes(const LatentsArgs& args, int32_t image_index, int32_t group_index)
      : a(args), m(*args.model), d(args.model->group[group_index]), image(image_index), group(group_index) {}

  CCM_DEVICE int32_t* counters() const { return a.counters(image, group); }
  CCM_DEVICE int32_t* flag(int32_t layer, int32_t tile) const {
    return counters() + GroupProgress::kFlags + layer * a.tiles + tile;
  }
  CCM_DEVICE DevicePlane context() const {
    return plane_at(a.context + image * a.context_bytes, a.w, m.plane_channels);
  }
  CCM_DEVICE DevicePlane psi() const { return plane_at(a.psi_plane + image * a.psi_bytes, a.w, a.psi_stride); }
  CCM_DEVICE DevicePlane feature(int32_t layer) const {
    int64_t at = 0;
    for (int32_t g = 0; g < group; ++g)
      for (int32_t l = 0; l + 1 < m.group[g].stack_layers; ++l)
        at += plane_bytes(a.h, a.w, m.group[g].stack[l + 1].cin_pad);
    for (int32_t l = 0; l < layer; ++l) at += plane_bytes(a.h, a.w, d.stack[l + 1].cin_pad);
    return plane_at(a.features + image * a.features_bytes + at, a.w, d.stack[layer + 1].cin_pad);
  }
  CCM_DEVICE Base base() const {
    int64_t at = 0;
    for (int32_t g = 0; g < group; ++g) at += static_cast<int64_t>(a.h) * a.w * m.group[g].base_pad;
    return {a.base + image * a.base_count + at, a.w, d.base_pad};
  }
};

struct DenseTask {
  int32_t layer, i, j;  // tile at (i, j); layer -1: none
};

// Whether the groups before this one have done what a tile of its first layer reads; if so, it is acquired.
CCM_DEVICE bool earlier_groups_done(const GroupPlanes& g, int32_t tile) {
  const LatentsArgs& a = g.a;
  // A group that reads the groups before it has waited for them in every position that it has done.
  int32_t first = g.group - 1;
  while (first > 0 && !chasing_layers(g.m.group[first])) --first;
  bool done = true;
  for (int32_t e = first; e < g.group; ++e)
    done = done && ld_relaxed(a.counters(g.image, e) + GroupProgress::kStepsDone) >=
                       a.order.of(e).needs[g.d.radius * a.tiles + tile];
  // Seen by polling, acquired now.
  for (int32_t e = first; done && e < g.group; ++e) ld_acquire(a.counters(g.image, e) + GroupProgress::kStepsDone);
  return done;
}

// A task of a group whose inputs are there. One thread. `open`: whether any task is not yet claimed.
CCM_DEVICE DenseTask find_task(const GroupPlanes& g, bool& open) {
  const int32_t last = chasing_layers(g.d) - 1;
  const LatentsArgs& a = g.a;
  if (last < 0) return {-1, 0, 0};
  const int32_t* const sequence = a.order.of(g.group - 1).sequence;
  for (int32_t l = last; l >= 0; --l) {
    const int32_t next = ld_relaxed(g.counters() + GroupProgress::kClaims + l);
    if (next >= a.tiles) continue;
    open = true;
    const int32_t packed = sequence[next], i = packed >> 16, j = packed & 0xffff;
    const int32_t tile = i * a.order.tiles_j + j;
    // What this layer reads: the context, or tiles of the layer before. The skip path sees no further than layer 0 does
    // (DeviceGroup::radius).
    if (l == 0) {
      if (!earlier_groups_done(g, tile)) continue;
    } else {
      const int32_t radius = g.d.stack[l].kernel / 2;
      const int32_t up = (2 * radius + kDenseRows - 1) / kDenseRows, left = radius > 0;
      bool ready = true;
      for (int32_t ni = max(0, i - up); ni <= i; ++ni)
        for (int32_t nj = max(0, j - left); nj <= j; ++nj)
          ready = ready && ld_relaxed(g.flag(l - 1, ni * a.order.tiles_j + nj)) != 0;
      if (!ready) continue;
      for (int32_t ni = max(0, i - up); ni <= i; ++ni)
        for (int32_t nj = max(0, j - left); nj <= j; ++nj) ld_acquire(g.flag(l - 1, ni * a.order.tiles_j + nj));
    }
    int32_t* claims = g.counters() + GroupProgress::kClaims + l;
    if (atomicCAS(claims, next, next + 1) == next) return {l, i, j};
  }
  return {-1, 0, 0};
}

// The whole block computes a claimed tile and says so.
CCM_DEVICE void run_task(const GroupPlanes& g, const DenseTask& task) {
  const LatentsArgs& a = g.a;
  const DeviceGroup& d = g.d;
  const int32_t last = chasing_layers(d) - 1, shift = d.shift[task.layer];
  const int32_t top = task.i * kDenseRows - shift, left = task.j * kDenseColumns - shift;
  if (task.layer < last) {
    const DevicePlane in = task.layer == 0 ? g.context() : g.feature(task.layer - 1);
    dense_bytes(g.m, d.stack[task.layer], in, top, left, a.h, a.w, g.feature(task.layer), a.h, a.w);
  } else {
    const Base base = g.base();
    for_each_unit(d.base_pad / kTileM, [&](int32_t m_tile) {
      const auto add = [&](const DeviceConv& c, const DevicePlane& in) {
        Accumulators<kDenseNT> acc;
        dense_product(g.m, c, in, top, left, a.h, a.w, m_tile, acc);
        for_each_value(g.m, c, m_tile, acc, [&](int32_t channel, int32_t p, const Rescale& rescale, int32_t value) {
          const DensePosition at(top, left, p);
          if (at.inside(a.h, a.w)) base.at(at.i, at.j)[channel] += rescale.linear(value);
        });
      };
      if (d.stack_layers) add(d.stack[last], last == 0 ? g.context() : g.feature(last - 1));
      if (d.has_skip) add(d.skip, g.context());
    });
  }
  __syncthreads();
  if (threadIdx.x == 0) announce(g.flag(task.layer, task.i * a.order.tiles_j + task.j), 1);
}

struct Claim {
  DenseTask task;  // layer -1: nothing is ready
  int32_t image, group;
  bool open;  // some task is not yet claimed
};

// The block claims a task of images first_image .. last_image - 1 and groups first_group .. last_group - 1.
CCM_DEVICE Claim claim_task(const LatentsArgs& a, int32_t first_image, int32_t last_image, int32_t first_group,
                            int32_t last_group) {
  CCM_SHARED(claimed, Claim);
  if (threadIdx.x < 32) {
    bool open = false;
    Claim claim{{-1, 0, 0}, 0, 0, false};
    // Each lane looks at a group of its own, one after the other, so that none claims a tile that nobody would compute.
    for (int32_t b = first_image; b < last_image && claim.task.layer < 0; ++b)
      for (int32_t first = first_group; first < last_group && claim.task.layer < 0; first += 32) {
        const int32_t mine = first + static_cast<int32_t>(threadIdx.x);
        DenseTask found{-1, 0, 0};
        unsigned who = 0;
        for (int32_t turn = 0; turn < 32 && first + turn < last_group && !who; ++turn) {
          if (static_cast<int32_t>(threadIdx.x) == turn) found = find_task(GroupPlanes(a, b, mine), open);
          who = __ballot_sync(0xffffffffu, found.layer >= 0);
        }
        if (!who) continue;
        const int32_t lane = __ffs(static_cast<int>(who)) - 1;
        claim.task.layer = __shfl_sync(0xffffffffu, found.layer, lane);
        claim.task.i = __shfl_sync(0xffffffffu, found.i, lane);
        claim.task.j = __shfl_sync(0xffffffffu, found.j, lane);
        claim.image = b;
        claim.group = first + lane;
      }
    claim.open = __any_sync(0xffffffffu, open);
    if (threadIdx.x == 0) claimed = claim;
  }
  __syncthreads();
  const Claim claim = claimed;
  __syncthreads();
  return claim;
}

}  // namespace ccm
