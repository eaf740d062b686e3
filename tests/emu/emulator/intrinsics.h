// What a thread does alone: plain intrinsics and atomics.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "collectives.h"
#include "runtime.h"

// ---- plain intrinsics ----------------------------------------------------------------------------------------------
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline int __mulhi(int a, int b) { return static_cast<int>((int64_t{a} * b) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{hi} << 32 | lo) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>((uint64_t{hi} << 32 | lo) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t v = uint64_t{y} << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    unsigned s = selector >> (4 * i) & 0xf, b = static_cast<unsigned>(v >> (8 * (s & 7)) & 0xff);
    if (s & 8) b = b & 0x80 ? 0xff : 0;  // the byte's sign, in all bits
    r |= b << (8 * i);
  }
  return r;
}
namespace emu {
template <class A, class B>  // of the four bytes each
inline int dot4(unsigned a, unsigned b, int c) {
  unsigned r = static_cast<unsigned>(c);
  for (int i = 0; i < 32; i += 8) r += static_cast<unsigned>(static_cast<A>(a >> i) * static_cast<B>(b >> i));
  return static_cast<int>(r);
}
}  // namespace emu
inline int __dp4a(int a, int b, int c) {
  return emu::dot4<int8_t, int8_t>(static_cast<unsigned>(a), static_cast<unsigned>(b), c);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return static_cast<unsigned>(emu::dot4<uint8_t, uint8_t>(a, b, static_cast<int>(c)));
}
inline int __float2int_rn(float x) {  // of two nearest the even one; saturates, and not a number is 0
  return std::isnan(x)        ? 0
         : x >= 2147483648.0f ? INT32_MAX
         : x < -2147483648.0f ? INT32_MIN
                              : static_cast<int>(std::nearbyint(x));
}
inline float __uint_as_float(unsigned x) {
  float f;
  std::memcpy(&f, &x, sizeof f);
  return f;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// ---- atomics: relaxed, as CUDA's; each is a place where another thread may run -------------------------------------
namespace emu {
template <class T, class F>
T atomic(T* p, F change) {
  yield(false);
  T old = __atomic_load_n(p, __ATOMIC_RELAXED), to;
  do to = change(old);
  while (!__atomic_compare_exchange_n(p, &old, to, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  if (to != old) progress();
  return old;
}
template <class T>
using same = std::common_type_t<T>;  // not deduced: atomicAdd(unsigned*, 1) is fine, as in CUDA
}  // namespace emu
template <class T>
T atomicAdd(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return emu::Add()(old, v); });
}
template <class T>
T atomicSub(T* p, emu::same<T> v) {
  return emu::atomic(
      p, [v](T old) { return emu::Add()(old, static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(v))); });
}
template <class T>
T atomicMin(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return v < old ? v : old; });
}
template <class T>
T atomicMax(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return old < v ? v : old; });
}
template <class T>
T atomicOr(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return static_cast<T>(old | v); });
}
template <class T>
T atomicAnd(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return static_cast<T>(old & v); });
}
template <class T>
T atomicXor(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T old) { return static_cast<T>(old ^ v); });
}
template <class T>
T atomicExch(T* p, emu::same<T> v) {
  return emu::atomic(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, emu::same<T> expected, emu::same<T> v) {
  emu::yield(true);  // often the body of a spin loop
  return emu::atomic(p, [=](T old) { return old == expected ? v : old; });
}
