// A weights file: float transforms in fp16, the frozen entropy model (the plan), and what they are; see
// ccm_fast/weights.py. Opening one reads its header; tensors are converted when they are asked for.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace ccm {

// Larger files are no weights of any model.
constexpr size_t kMaxWeightsBytes = size_t{1} << 30;

// A tensor of numbers of 16 bits, valid as long as its file.
struct Halves {
  const uint8_t* data;
  std::string name;

  // Elements [first, first + n) as floats. Throws Error (kModel): one is not finite.
  void read(size_t first, size_t n, float* to) const;
};

class WeightsFile {
 public:
  // Throws Error (kModel).
  explicit WeightsFile(Bytes file);

  const ModelConfig& config() const { return config_; }
  // "mse" or "ms-ssim": what the weights were trained for.
  const std::string& metric() const { return metric_; }
  // Whether files may have picture filters, which lower squared errors: files of models that were trained for the eye
  // score lower with them at equal size.
  bool filters() const { return filters_; }
  const uint8_t* plan() const { return plan_.data; }
  size_t plan_size() const { return plan_.size; }
  // What symbols stand for beside themselves, [rows][width], or empty where the file has none. Throws Error (kModel).
  std::vector<float> shifts(int64_t rows, int64_t width) const;
  // Of g_s, [2][M]; empty where the file has none.
  std::vector<float> sensitivities() const;
  // Of the convolution that makes pictures of 1/4 or 1/8 of the sides, [outputs][inputs], the last input being 1; empty
  // where the file has none. Throws Error (kModel).
  std::vector<float> reduced(int32_t factor, int64_t outputs, int64_t inputs) const;
  // A parameter, such as "g_s.0.coarse.0.weight", of exactly this shape and finite. Throws Error (kModel).
  std::vector<float> floats(const std::string& name, const std::vector<int64_t>& shape) const;
  // The same, to be read piece by piece.
  Halves halves(const std::string& name, const std::vector<int64_t>& shape) const;
  bool has(const std::string& name) const { return parts_.tensors.count("float." + name) != 0; }

 private:
  // A tensor in fp16, or nothing where the file has none of that name.
  std::vector<float> optional(const std::string& name, const std::vector<int64_t>& shape) const;

  Bytes file_;
  Safetensors parts_;
  ModelConfig config_;
  std::string metric_ = "mse";
  bool filters_ = true;
  TensorView plan_;
};

}  // namespace ccm
