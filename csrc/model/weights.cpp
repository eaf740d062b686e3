#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/little_endian.h"
#include "model/json.h"

namespace ccm {
namespace {

constexpr const char* kFormat = "ccm_fast weights 1";

[[noreturn]] void fail(const std::string& why) { throw Error(ErrorCode::kModel, why); }

// A sum without branches: 0 * v is no number where v is infinite or none.
bool all_finite(const float* values, size_t n) {
  constexpr size_t kLanes = 16;
  float sums[kLanes] = {};
  const size_t whole = n / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t l = 0; l < kLanes; ++l) sums[l] += 0 * values[i + l];
  for (size_t i = whole; i < n; ++i) sums[0] += 0 * values[i];
  return std::all_of(sums, sums + kLanes, [](float sum) { return sum == 0; });
}

}  // namespace

WeightsFile::WeightsFile(Bytes file) : file_(std::move(file)) {
  if (file_.size > kMaxWeightsBytes) fail("larger than any weights file");
  parts_ = read_safetensors(file_);
  if (parts_.metadata["format"] != kFormat) fail("no weights file of this library");
  if (parts_.metadata.count("transforms"))
    fail("its transforms are of classes of the author's own: load it in Python, with ccm_fast.load(path, g_a=, g_s=)");
  config_ = read_config(parse_json(parts_.metadata["config"]));
  if (const auto meta = parts_.metadata.find("meta"); meta != parts_.metadata.end()) {
    const Json remarks = parse_json(meta->second);
    if (const Json* metric = remarks.find("metric"); metric && !metric->text.empty()) metric_ = metric->text;
    const Json* trained_for = remarks.find("trained_for");
    filters_ = metric_ == "mse" && (!trained_for || trained_for->text == "mse");
  }
  const auto plan = parts_.tensors.find("plan");
  if (plan == parts_.tensors.end() || plan->second.dtype != DType::kU8 || plan->second.shape.size() != 1)
    fail("the frozen entropy model is missing, or not a row of bytes");
  plan_ = plan->second;
}

void Halves::read(size_t first, size_t n, float* to) const {
  half_to_float(data + first * sizeof(uint16_t), n, to);
  if (!all_finite(to, n)) fail(name + " has values that are not finite");
}

std::vector<float> WeightsFile::optional(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto found = parts_.tensors.find(name);
  if (found == parts_.tensors.end()) return {};
  const TensorView& t = found->second;
  if (t.dtype != DType::kF16 || t.shape != shape) fail("the shape of " + name);
  std::vector<float> values(t.size / sizeof(uint16_t));
  Halves{t.data, name}.read(0, values.size(), values.data());
  return values;
}

std::vector<float> WeightsFile::shifts(int64_t rows, int64_t width) const { return optional("shifts", {rows, width}); }

std::vector<float> WeightsFile::reduced(int32_t factor, int64_t outputs, int64_t inputs) const {
  return optional("reduced." + std::to_string(factor), {outputs, inputs});
}

std::vector<float> WeightsFile::sensitivities() const {
  const auto found = parts_.tensors.find("sensitivities");
  if (found == parts_.tensors.end()) return {};
  const TensorView& t = found->second;
  if (t.dtype != DType::kF32 || t.shape != std::vector<int64_t>{2, config_.latent_channels()})
    fail("the shape of sensitivities");
  std::vector<float> values(t.size / sizeof(float));
  load_all(t.data, values.size(), values.data(), load_f32);
  if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v) && v >= 0; }))
    fail("sensitivities must be finite and not negative");
  return values;
}

std::vector<float> WeightsFile::floats(const std::string& name, const std::vector<int64_t>& shape) const {
  const Halves halves = this->halves(name, shape);
  size_t n = 1;
  for (int64_t side : shape) n *= static_cast<size_t>(side);
  std::vector<float> values(n);
  halves.read(0, n, values.data());
  return values;
}

Halves WeightsFile::halves(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto found = parts_.tensors.find("float." + name);
  if (found == parts_.tensors.end()) fail("missing tensor: " + name);
  if (found->second.dtype != DType::kF16 || found->second.shape != shape)
    fail(name + " has another type or shape than the configuration says");
  return {found->second.data, name};
}

}  // namespace ccm
