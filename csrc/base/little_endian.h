// Numbers as files hold them, little-endian, on machines of either byte order. Compilers make a load of each.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ccm {

inline uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

inline uint32_t load_u32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

inline int32_t load_i32(const uint8_t* p) { return static_cast<int32_t>(load_u32(p)); }

inline float load_f32(const uint8_t* p) {
  const uint32_t bits = load_u32(p);
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// to[i] = load(element i of `from`), for elements as large as To. Where memory has the files' order, a copy.
template <class To, class Load>
void load_all(const uint8_t* from, size_t count, To* to, [[maybe_unused]] Load load) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  if (count) std::memcpy(to, from, count * sizeof(To));
#else
  for (size_t i = 0; i < count; ++i) to[i] = load(from + i * sizeof(To));
#endif
}

}  // namespace ccm
