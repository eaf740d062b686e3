// Reading safetensors files: 8 bytes of length, a JSON header of that length, the tensors' data. Nothing outside the
// given bytes is read whatever the header says, and nothing is copied.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace ccm {

enum class DType { kU8, kF16, kF32, kOther };

struct TensorView {
  DType dtype = DType::kOther;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;  // little-endian, of no alignment; valid as long as the file's bytes
  size_t size = 0;                // bytes; the product of the shape times the type's size

  int64_t elements() const;
};

struct Safetensors {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

// Throws Error (kModel): not such a file, or one whose parts do not fit each other.
Safetensors read_safetensors(const Bytes& file);

// n numbers of 16 bits, little-endian and of no alignment, as floats; exact.
void half_to_float(const uint8_t* from, size_t n, float* to);

}  // namespace ccm
