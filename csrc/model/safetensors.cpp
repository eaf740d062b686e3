#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/little_endian.h"
#include "model/json.h"

namespace ccm {
namespace {

constexpr uint64_t kMaxHeader = 16 << 20;
constexpr int64_t kMaxElements = int64_t{1} << 40;
constexpr size_t kMaxDimensions = 8;

[[noreturn]] void fail(const std::string& why) { throw Error(ErrorCode::kModel, "not a safetensors file: " + why); }

struct Type {
  DType dtype;
  int64_t bytes;
};

Type type_of(const std::string& name) {
  if (name == "U8") return {DType::kU8, 1};
  if (name == "F16") return {DType::kF16, 2};
  if (name == "F32") return {DType::kF32, 4};
  return {DType::kOther, 0};
}

TensorView tensor(const std::string& name, const Json& entry, const uint8_t* data, size_t size) {
  const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
  if (!dtype || !shape || !offsets || shape->kind != Json::kArray || offsets->items.size() != 2)
    fail("the entry of " + name + " is incomplete");
  TensorView t;
  const Type type = type_of(dtype->text);
  t.dtype = type.dtype;
  if (shape->items.size() > kMaxDimensions) fail(name + " has too many dimensions");
  int64_t elements = 1, first = 0, end = 0;
  for (const Json& side : shape->items) {
    int64_t n;
    if (!side.whole(0, kMaxElements, n)) fail("the shape of " + name);
    t.shape.push_back(n);
    if (n && elements > kMaxElements / n) fail(name + " is too large");
    elements *= n;
  }
  const int64_t most = static_cast<int64_t>(size);
  if (!offsets->items[0].whole(0, most, first) || !offsets->items[1].whole(first, most, end))
    fail("the place of " + name + " lies outside the file");
  if (type.bytes && end - first != elements * type.bytes) fail("shape and size of " + name + " disagree");
  t.data = data + first;
  t.size = static_cast<size_t>(end - first);
  return t;
}

// Without branches, so that loops become vectors: exponent and fraction, moved to their places, are 2^-112 of the
// value, exactly so for subnormal numbers too unless the process flushes them to zero (an error of 2^-14 at most, of
// floats alone); infinities and NaN get the largest exponent.
inline float float_of(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits = magnitude << 13;
  float v;
  std::memcpy(&v, &bits, sizeof v);
  v *= 5.192296858534828e33f;  // 2^112
  std::memcpy(&bits, &v, sizeof v);
  bits |= (uint32_t{half} & 0x8000u) << 16 | (magnitude >= 0x7c00u ? 0x7f800000u : 0u);
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

}  // namespace

int64_t TensorView::elements() const {
  int64_t n = 1;
  for (int64_t side : shape) n *= side;
  return n;
}

Safetensors read_safetensors(const Bytes& file) {
  if (file.size < 8) fail("it is too short");
  uint64_t length = 0;
  for (int k = 7; k >= 0; --k) length = length << 8 | file.data[k];
  if (length > kMaxHeader || length > file.size - 8) fail("its header is cut off, or too long");
  const std::string_view text(reinterpret_cast<const char*>(file.data) + 8, static_cast<size_t>(length));
  const Json header = parse_json(text);
  if (header.kind != Json::kObject) fail("its header is no object");
  const uint8_t* data = file.data + 8 + length;
  const size_t size = file.size - 8 - static_cast<size_t>(length);
  Safetensors out;
  for (const auto& [name, entry] : header.members) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.members) out.metadata[key] = value.text;
      continue;
    }
    out.tensors[name] = tensor(name, entry, data, size);
  }
  return out;
}

void half_to_float(const uint8_t* from, size_t n, float* to) {
  constexpr size_t kAtOnce = 1024;
  uint16_t halves[kAtOnce];
  for (size_t first = 0; first < n; first += kAtOnce) {
    const size_t count = std::min(kAtOnce, n - first);
    load_all(from + 2 * first, count, halves, load_u16);
    for (size_t i = 0; i < count; ++i) to[first + i] = float_of(halves[i]);
  }
}

}  // namespace ccm
