// The emulator's runtime, as kernels and host code see it: built-in types and variables, launches, what a thread may
// ask for. It is implemented in the .cpp files here, which are never instrumented for ThreadSanitizer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>  // whose attribute __noinline__ is a macro from here on
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
constexpr int warpSize = 32;

namespace emu {

struct Context {  // what a thread may ask about itself
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned lane, warp;
};
extern Context* current;  // of the running fiber

struct Source {
  const char* file;
  int line;
};
#define EMU_SOURCE const char *emu_file = __builtin_FILE(), int emu_line = __builtin_LINE()
#define EMU_HERE (::emu::Source{emu_file, emu_line})

// Operands of a collective stay on the lanes' stacks: all of them are parked while the last one runs `finish`. Only
// members of `lanes` may be touched. TSan must not look at it, since lanes are not synchronised by a shuffle.
struct Collective {
  unsigned mask, lanes;  // lanes: the living ones of mask
  void* operand[32];
};
typedef void (*Finish)(const Collective&);
#define EMU_UNSEEN __attribute__((no_sanitize("thread"), noinline))

enum Op { kSync, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kReduce, kMatch, kMma };
enum Reduction { kNone, kCount, kAnd, kOr };

void warp_op(unsigned mask, int op, void* operand, Finish finish, Source source);
int block_barrier(int id, int count, int predicate, Reduction reduction, bool wait, Source source);
void grid_barrier(Source source);
void yield(bool spinning);  // a place where another thread may run
void poll(Source source);   // the same, where a thread may be waiting for another
void progress();            // something that other threads poll has changed
void fence();
[[noreturn]] void fail(const char* format, ...);
void* dynamic_shared();
void* static_shared(const void* tag, size_t bytes, size_t align);
int run(dim3 grid, dim3 block, size_t shared, bool cooperative, void (*body)(void*), void* argument);
const char* last_error();  // what was wrong with the last launch, "" when nothing
bool capturing();
void record(std::function<int()> work);
int refuse_capture(const char* call);  // of a call that is not allowed while work is captured; its error code
int attribute(int which);
template <class T>
using ident = T;

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, bool cooperative, A&&... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> arguments;
  } call{kernel, {static_cast<P>(arguments)...}};
  auto work = [=]() mutable {
    auto body = [](void* p) {
      auto* c = static_cast<Call*>(p);
      std::apply(c->kernel, c->arguments);
    };
    return run(grid, block, shared, cooperative, body, &call);
  };
  if (!capturing()) return work();
  record(work);
  return 0;
}

}  // namespace emu

#define threadIdx (::emu::current->thread)
#define blockIdx (::emu::current->block)
#define blockDim (::emu::current->block_dim)
#define gridDim (::emu::current->grid_dim)
