// Launches: blocks come and go, with their shared memory.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "host.h"
#include "state.h"

namespace emu {
namespace {

constexpr size_t kMaxTsanThreads = 6000;  // in a launch; ThreadSanitizer ends at 8,128
constexpr size_t kStaticLimit = 48 * 1024, kRedZone = 64;

std::mutex one_launch;
std::vector<Block*> finished;

void start_block() {
  unsigned i = L->order[L->next_block++];
  auto* b = new Block;
  b->id = {i % L->grid.x, i / L->grid.x % L->grid.y, i / L->grid.x / L->grid.y};
  unsigned threads = L->dim.x * L->dim.y * L->dim.z;
  b->warps = std::vector<Warp>((threads + 31) / 32);
  b->dynamic = static_cast<char*>(std::malloc(L->shared ? L->shared : 1));
  for (size_t k = 0; k < L->shared; ++k) b->dynamic[k] = static_cast<char>(L->random ? random_number() : 0xA5);
  b->fixed = static_cast<char*>(std::malloc(kStaticLimit + 64 * kRedZone));
  std::memset(b->fixed, 0xA5, kStaticLimit + 64 * kRedZone);
  if (__asan_poison_memory_region) __asan_poison_memory_region(b->fixed, kStaticLimit + 64 * kRedZone);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber* f = new_fiber(b, t);
    uint3 id{t % L->dim.x, t / L->dim.x % L->dim.y, t / L->dim.x / L->dim.y};
    f->context = {id, b->id, L->dim, L->grid, t & 31, t >> 5};
    if (__tsan_set_fiber_name) {
      char name[64];
      std::snprintf(name, sizeof name, "block %u thread %u", i, t);
      __tsan_set_fiber_name(f->tsan, name);
    }
    b->fibers.push_back(f);
    b->warps[t >> 5].lane[t & 31] = f;
    b->warps[t >> 5].alive |= 1u << (t & 31);
    L->push(f);
  }
  b->alive = static_cast<int>(threads);
  L->live.push_back(b);
  progress();
}

void drop(Block* b) {
  for (Fiber* f : b->fibers) drop(f);
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(b->fixed, kStaticLimit + 64 * kRedZone);
  std::free(b->dynamic);
  std::free(b->fixed);
  delete b;
}

void reap() {
  auto keep = L->live.begin();
  for (Block* b : L->live) {
    if (b->alive)
      *keep++ = b;
    else if (__tsan_acquire)
      finished.push_back(b);  // freeing it now would race with its last accesses: nothing orders them before us
    else
      drop(b);
  }
  L->live.erase(keep, L->live.end());
}

}  // namespace

void* dynamic_shared() { return L->running->block->dynamic; }

void* static_shared(const void* tag, size_t bytes, size_t align) {
  Block* b = L->running->block;
  for (auto& s : b->statics)
    if (s.tag == tag) return s.address;
  size_t begin = (b->fixed_used + align - 1) / align * align;
  if (begin + bytes - b->statics.size() * kRedZone > kStaticLimit) fail("more than 48 KB of static shared memory");
  char* address = b->fixed + begin;
  b->fixed_used = (begin + bytes + 7) / 8 * 8 + kRedZone;  // what lies between is poisoned for AddressSanitizer
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(address, bytes);
  b->statics.push_back({tag, address});
  return address;
}

int run(dim3 grid, dim3 dim, size_t shared, bool cooperative, void (*body)(void*), void* argument) {
  std::lock_guard<std::mutex> lock(one_launch);
  error.clear();
  size_t threads = size_t{dim.x} * dim.y * dim.z, blocks = size_t{grid.x} * grid.y * grid.z;
  auto refuse = [](int code, const std::string& why) {
    error = why;
    return code;
  };
  if (!threads || threads > 1024 || !blocks || grid.y > 65535 || grid.z > 65535)
    return refuse(cudaErrorInvalidConfiguration,
                  "invalid launch: " + std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads");
  if (static_cast<long long>(shared) > shared_limit())
    return refuse(cudaErrorInvalidValue, "invalid launch: " + std::to_string(shared) + " bytes of shared memory of " +
                                             std::to_string(shared_limit()));
  if (__tsan_create_fiber && blocks * threads > kMaxTsanThreads)
    return refuse(cudaErrorInvalidConfiguration, "under ThreadSanitizer a launch has at most " +
                                                     std::to_string(kMaxTsanThreads) + " threads, not " +
                                                     std::to_string(blocks * threads));
  size_t most = kMaxThreads / threads;
  long long wanted = setting("CCM_EMU_RESIDENT", 0);
  if (wanted > 0 && static_cast<size_t>(wanted) < most) most = static_cast<size_t>(wanted);
  if (cooperative && blocks > most)
    return refuse(cudaErrorCooperativeLaunchTooLarge,
                  "cooperative launch of " + std::to_string(blocks) + " blocks where " + std::to_string(most) + " fit");
  Launch launch;
  L = &launch;
  launch.grid = grid, launch.dim = dim, launch.shared = shared, launch.cooperative = cooperative;
  launch.body = body, launch.argument = argument;
  launch.blocks = static_cast<unsigned>(blocks);
  launch.unfinished = blocks * threads;
  launch.resident = static_cast<unsigned>(most < blocks ? most : blocks);
  launch.patience = static_cast<unsigned long long>(setting("CCM_EMU_PATIENCE", 10000000));
  auto seed = static_cast<uint64_t>(setting("CCM_EMU_SEED", 0));
  launch.random = seed != 0;
  launch.random_state = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  for (unsigned i = 0; i < launch.blocks; ++i) launch.order.push_back(i);
  if (launch.random)
    for (unsigned i = launch.blocks; i > 1; --i) std::swap(launch.order[i - 1], launch.order[random_number() % i]);
  launch.ring.resize((launch.resident + 1) * threads);
  adopt_main();
  Context* outer = current;
  while (!launch.failed && launch.unfinished) {
    while (launch.live.size() < launch.resident && launch.next_block < launch.blocks) start_block();
    release(&launch.started);
    run_next();
    if (!launch.failed) reap();
  }
  current = outer;
  acquire(&launch.ended);
  for (Block* b : launch.live) drop(b);
  for (Block* b : finished) drop(b);
  finished.clear();
  if (std::getenv("CCM_EMU_STATS"))
    std::fprintf(stderr, "emulator: %llu switches, %llu warp collectives\n", launch.switches, launch.collectives);
  L = nullptr;
  return launch.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace emu
