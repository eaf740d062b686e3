// Where threads meet: barriers, warp collectives, tensor cores.
#pragma once
#include <type_traits>

#include "runtime.h"

// ---- barriers ------------------------------------------------------------------------------------------------------
inline void __syncthreads(EMU_SOURCE) { emu::block_barrier(0, 0, 0, emu::kNone, true, EMU_HERE); }
inline int __syncthreads_count(int p, EMU_SOURCE) {
  return emu::block_barrier(0, 0, p != 0, emu::kCount, true, EMU_HERE);
}
inline int __syncthreads_and(int p, EMU_SOURCE) { return emu::block_barrier(0, 0, p != 0, emu::kAnd, true, EMU_HERE); }
inline int __syncthreads_or(int p, EMU_SOURCE) { return emu::block_barrier(0, 0, p != 0, emu::kOr, true, EMU_HERE); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_SOURCE) {
  emu::warp_op(mask, emu::kSync, nullptr, nullptr, EMU_HERE);
}
inline void __threadfence() { emu::fence(); }
inline void __threadfence_block() { emu::fence(); }
inline void __nanosleep(unsigned) { emu::yield(true); }

// ---- cooperative groups: the grid only -----------------------------------------------------------------------------
namespace cooperative_groups {
struct grid_group {
  void sync(EMU_SOURCE) const { emu::grid_barrier(EMU_HERE); }
};
inline grid_group this_grid() { return {}; }
}  // namespace cooperative_groups

// ---- warp collectives ----------------------------------------------------------------------------------------------
namespace emu {

template <class T>
struct Shuffle {
  T value;
  int source, width;
  T result;
};

template <class T, int OP>
EMU_UNSEEN void finish_shuffle(const Collective& c) {
  static const char* const names[] = {"", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  for (int lane = 0; lane < 32; ++lane) {
    if (!(c.lanes >> lane & 1)) continue;
    auto* s = static_cast<Shuffle<T>*>(c.operand[lane]);
    int first = lane & ~(s->width - 1), end = first + s->width, from;
    if (OP == kShuffle) from = first + (s->source & (s->width - 1));
    if (OP == kShuffleUp) from = lane - s->source < first ? lane : lane - s->source;
    if (OP == kShuffleDown) from = lane + s->source >= end ? lane : lane + s->source;
    if (OP == kShuffleXor) from = (lane ^ s->source) >= end ? lane : lane ^ s->source;
    if (!(c.lanes >> from & 1))
      fail("%s: lane %d reads lane %d, which is not among the living lanes %08x of its mask", names[OP], lane, from,
           c.lanes);
    s->result = static_cast<Shuffle<T>*>(c.operand[from])->value;
  }
}

template <int OP, class T>
T shuffle(unsigned mask, T value, int source, int width, Source where) {
  static_assert(std::is_trivially_copyable<T>::value, "shuffles move plain values");
  Shuffle<T> s{value, source, width, {}};
  warp_op(mask, OP, &s, finish_shuffle<T, OP>, where);
  return s.result;
}

struct Vote {
  unsigned value, result;
};
EMU_UNSEEN inline void finish_ballot(const Collective& c) {
  unsigned r = 0;
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) r |= static_cast<Vote*>(c.operand[l])->value << l;
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) static_cast<Vote*>(c.operand[l])->result = r;
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct And {
  unsigned operator()(unsigned a, unsigned b) const { return a & b; }
};
struct Or {
  unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};
struct Xor {
  unsigned operator()(unsigned a, unsigned b) const { return a ^ b; }
};

template <class F, class T>
EMU_UNSEEN void finish_reduce(const Collective& c) {
  T r{};
  bool first = true;
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) {
      T v = *static_cast<T*>(c.operand[l]);
      r = first ? v : F()(r, v);
      first = false;
    }
  for (int l = 0; l < 32; ++l)
    if (c.lanes >> l & 1) *static_cast<T*>(c.operand[l]) = r;
}
template <class F, class T>
T reduce(unsigned mask, T value, Source where) {
  warp_op(mask, kReduce, &value, finish_reduce<F, T>, where);
  return value;
}

struct Match {
  unsigned long long value;
  unsigned result;
};
EMU_UNSEEN inline void finish_match(const Collective& c) {
  for (int l = 0; l < 32; ++l) {
    if (!(c.lanes >> l & 1)) continue;
    auto* m = static_cast<Match*>(c.operand[l]);
    m->result = 0;
    for (int k = 0; k < 32; ++k)
      if ((c.lanes >> k & 1) && static_cast<Match*>(c.operand[k])->value == m->value) m->result |= 1u << k;
  }
}

}  // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffle>(mask, v, lane, width, EMU_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffleUp>(mask, v, static_cast<int>(delta), width, EMU_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffleDown>(mask, v, static_cast<int>(delta), width, EMU_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EMU_SOURCE) {
  return emu::shuffle<emu::kShuffleXor>(mask, v, bits, width, EMU_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int p, EMU_SOURCE) {
  emu::Vote v{p != 0, 0};
  emu::warp_op(mask, emu::kBallot, &v, emu::finish_ballot, EMU_HERE);
  return v.result;
}
inline int __any_sync(unsigned mask, int p, EMU_SOURCE) { return __ballot_sync(mask, p, emu_file, emu_line) != 0; }
inline int __all_sync(unsigned mask, int p, EMU_SOURCE) { return __ballot_sync(mask, !p, emu_file, emu_line) == 0; }
inline int __reduce_add_sync(unsigned m, int v, EMU_SOURCE) { return emu::reduce<emu::Add>(m, v, EMU_HERE); }
inline unsigned __reduce_add_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Add>(m, v, EMU_HERE); }
inline int __reduce_min_sync(unsigned m, int v, EMU_SOURCE) { return emu::reduce<emu::Min>(m, v, EMU_HERE); }
inline unsigned __reduce_min_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Min>(m, v, EMU_HERE); }
inline int __reduce_max_sync(unsigned m, int v, EMU_SOURCE) { return emu::reduce<emu::Max>(m, v, EMU_HERE); }
inline unsigned __reduce_max_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Max>(m, v, EMU_HERE); }
inline unsigned __reduce_and_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::And>(m, v, EMU_HERE); }
inline unsigned __reduce_or_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Or>(m, v, EMU_HERE); }
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, EMU_SOURCE) { return emu::reduce<emu::Xor>(m, v, EMU_HERE); }
template <class T>
unsigned __match_any_sync(unsigned mask, T value, EMU_SOURCE) {
  emu::Match m{static_cast<std::make_unsigned_t<T>>(value), 0};
  emu::warp_op(mask, emu::kMatch, &m, emu::finish_match, EMU_HERE);
  return m.result;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* predicate, EMU_SOURCE) {
  unsigned same = __match_any_sync(mask, value, emu_file, emu_line);
  *predicate = same == mask;
  return *predicate ? mask : 0;
}

// ---- tensor cores --------------------------------------------------------------------------------------------------
// d += A B for 8-bit A and B with the fragment layouts of the PTX manual, d[i] mod 2^32 as without .satfinite.
namespace emu {
struct Fragments {
  unsigned a[4], b[2];
  int d[4];
};
void multiply_16832(const Collective&, bool a_signed, bool b_signed);
void multiply_8816(const Collective&, bool a_signed, bool b_signed);

template <bool A_SIGNED, bool B_SIGNED>
void finish_16832(const Collective& c) {
  multiply_16832(c, A_SIGNED, B_SIGNED);
}
template <bool A_SIGNED, bool B_SIGNED>
void finish_8816(const Collective& c) {
  multiply_8816(c, A_SIGNED, B_SIGNED);
}
// mma.sync.aligned.m16n8k32.row.col
template <bool A_SIGNED, bool B_SIGNED>
void mma_16832(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Source where) {
  Fragments f{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}};
  warp_op(0xffffffffu, kMma, &f, finish_16832<A_SIGNED, B_SIGNED>, where);
  for (int i = 0; i < 4; ++i) d[i] = f.d[i];
}
// mma.sync.aligned.m8n8k16.row.col
template <bool A_SIGNED, bool B_SIGNED>
void mma_8816(int& d0, int& d1, unsigned a, unsigned b, Source where) {
  Fragments f{{a}, {b}, {d0, d1}};
  warp_op(0xffffffffu, kMma, &f, finish_8816<A_SIGNED, B_SIGNED>, where);
  d0 = f.d[0], d1 = f.d[1];
}
}  // namespace emu
