// What the programs have in common that tests run under sanitizers: reading their input, and saying what is wrong.
#pragma once
#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/little_endian.h"

namespace checking {

inline std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<int16_t> read_latents(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path);
  std::vector<int16_t> v(bytes.size() / 2);
  ccm::load_all(bytes.data(), v.size(), v.data(), ccm::load_u16);
  return v;
}

inline void require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

}  // namespace checking
