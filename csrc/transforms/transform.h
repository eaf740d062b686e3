// Float convolutions of the transforms (g_a, h_a, g_s) for inference on a CPU: what torch's library leaves unused.
//
// 3x3 convolutions of stride 1 go through Winograd's F(6x6, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): 64 products
// for 36 outputs in place of 324. Pixel (un)shuffles by 2 before or after belong to it, and with them the strided and
// transposed 5x5 convolutions of many nets. Everything else is a product of gathered rows (im2col), a block at a time.
// Bias, activation, (inverse) GDN and a residual are applied to rows that are still in the cache.
//
// Planes are channels-last, [B][H][W][C]. Floats: the last bits depend on the instruction set; nothing here may feed
// the entropy coder's tables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/memory.h"

namespace ccm {

enum Activation : int32_t { kLinear = 0, kLeaky = 1, kGdn = 2, kInverseGdn = 3 };

// What happens to the rows of a result, channel by channel.
struct Epilogue {
  const float* bias;  // [columns]
  int32_t activation = kLinear;
  float slope = 0;                  // kLeaky: of negative values
  const float* gamma = nullptr;     // GDN: panels of the transposed matrix, see pack_panels and pack_int16
  const float* beta = nullptr;      // GDN
  const float* residual = nullptr;  // of the result's shape, added last
  bool int16 = false;               // whether gamma is of pack_int16
};

// Columns of a weight panel: consecutive columns that lie together, row after row.
constexpr int32_t kPanel = 16;

inline int64_t panel_floats(int64_t rows, int64_t columns) { return rows * ((columns + kPanel - 1) / kPanel * kPanel); }

// Matrix [rows][columns], element (r, c) at from[r * row_step + c * column_step] -> panels.
void pack_panels(const float* from, int32_t rows, int32_t columns, int64_t row_step, int64_t column_step, float* to);

// Panels of 16-bit integers, for products of half the words: every column's scale, padded to panels; then the panels,
// whose words are pairs of rows. No sum over `chunk` of them leaves 32 bits, which is at most the product of both roots
// of sums of squares (Cauchy and Schwarz): a row's may be kInt16Root, and columns have what that leaves them. rows: a
// multiple of chunk, which is even.
constexpr float kInt16Root = 32767;
inline int64_t int16_floats(int64_t rows, int64_t columns) {
  return rows ? panel_floats(1, columns) + panel_floats(rows / 2, columns) : 0;
}
void pack_int16(const float* from, int32_t rows, int32_t columns, int32_t chunk, float* to);

// `rows` rounded up to a multiple of 8 (pairs of int16, vectors of 8); the rows that are added hold zeros.
inline int32_t int16_depth(int32_t rows) { return (rows + 7) / 8 * 8; }

// Channels that a convolution's products add in integers, of `in`: few, so that all operands have more bits, but enough
// for what comes after each sum to be little beside it; a divisor and a multiple of 8.
inline int32_t int16_chunk(int32_t in) {
  constexpr int32_t kMost = 192, kLeast = 64;
  for (int32_t parts = 1; in / parts >= kLeast; ++parts)
    if (in % (8 * parts) == 0 && in / parts <= kMost) return in / parts;
  return in;
}

// Packed weights. Of whatever values at first: they are many, and all are written.
class PackedFloats {
 public:
  PackedFloats() = default;
  explicit PackedFloats(size_t size) : size_(size), data_(take_lasting_floats(size)) {}
  PackedFloats(PackedFloats&&) = default;
  PackedFloats& operator=(PackedFloats&&) = default;

  size_t size() const { return size_; }
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }

 private:
  size_t size_ = 0;
  std::shared_ptr<float> data_;
};

// Outputs of a tile in each direction, in positions of a phase.
constexpr int kWinogradTile = 6;

// A 3x3 convolution, padding 1, of planes whose pixels are `in_phases` blocks of `in` channels, to `out_phases` blocks
// of `out` channels. Phases are 1, or 4 for the pixels (0,0), (0,1), (1,0), (1,1) of a plane twice as large each way.
struct WinogradShape {
  int32_t in, out, in_phases, out_phases;
  int64_t blocks() const { return static_cast<int64_t>(in_phases) * out_phases; }
};

// Packed kernel: for every output phase and point the input phases with products that are not zero, then their panels.
// weight [out_phases * out][in_phases * in][3][3], phase-major. int16: panels of pack_int16.
PackedFloats pack_winograd(const WinogradShape& s, const float* weight, bool int16);

// Weights of a convolution, [count][inputs][kernel][kernel] of the outputs from `first` on: where they are, or in
// `scratch`, which has room for them.
using Outputs = std::function<const float*(int64_t first, int32_t count, float* scratch)>;

// The same of weights that are read a panel at a time.
PackedFloats pack_winograd(const WinogradShape& s, const Outputs& weights, bool int16);

// Whether `packed` (n floats) is a kernel of that shape.
bool winograd_fits(const WinogradShape& s, const float* packed, int64_t n, bool int16);

struct WinogradArgs {
  WinogradShape shape;
  const float* x;       // [B][H * s][W * s][in], s = 2 for four input phases
  const float* packed;  // of pack_winograd
  float* y;             // [B][H * s][W * s][out], s = 2 for four output phases
  int64_t batch, height, width;
  Epilogue after;
};

// Any other convolution: y[i][j] = sum over u, v of w[u][v] x[i * stride - padding + u][...].
struct DirectArgs {
  const float* x;        // [B][H][W][in]
  const float* weights;  // panels of [kernel * kernel * in][out]; or of pack_int16, to int16_depth rows
  float* y;              // [B][OH][OW][out]
  int64_t batch, height, width, out_height, out_width;
  int32_t in, out, kernel, stride, padding;
  Epilogue after;
};

struct TransformKernels {
  void (*winograd)(const WinogradArgs&, int threads);
  void (*winograd_int16)(const WinogradArgs&, int threads);  // null: this machine has none, nor the other
  void (*direct)(const DirectArgs&, int threads);
  void (*direct_int16)(const DirectArgs&, int threads);
};

const TransformKernels& plain_transform_kernels();
#if defined(CCM_HAVE_FMA)
const TransformKernels& fma_transform_kernels();
#endif
#if defined(CCM_HAVE_FMAVNNI)
const TransformKernels& fmavnni_transform_kernels();
#endif
#if defined(CCM_HAVE_FMA512VNNI)
const TransformKernels& fma512vnni_transform_kernels();
#endif

enum TransformIsa { kPlain, kFma, kFmaVnni, kFma512Vnni };

// The fastest, or what the environment variable CCM_FAST_ISA names (scalar, avx2, avxvnni, avx512vnni, or avx512amx,
// whose tiles are for bytes and leave transforms as they are with avx512vnni), as for the integer kernels, which refuse
// unknown names; where this machine lacks it, the next lesser one.
TransformIsa transform_isa();
const TransformKernels& transform_kernels();

}  // namespace ccm
