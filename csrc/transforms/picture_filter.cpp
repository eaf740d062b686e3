#include "transforms/picture_filter.h"

#include <algorithm>
#include <cmath>

#include "transforms/opponent.h"
#include "transforms/transform.h"

namespace ccm {

FilterPlanes::FilterPlanes(const Window& at, int64_t height, int64_t width, int32_t colours)
    : at_(at),
      height_(height),
      width_(width),
      rows_(at.height() + 2 * kFilterReach),
      stride_(filter_room(at.width() + 2 * kFilterReach + kFilterBlock)),
      colours_(colours),
      memory_(static_cast<size_t>((colours + 1) * rows_ * stride_ / 2)),
      values_(reinterpret_cast<int16_t*>(memory_.data())) {}

Window FilterPlanes::filled() const {
  return {std::max<int64_t>(at_.i0 - kFilterReach, 0), std::min(at_.i1 + kFilterReach, height_),
          std::max<int64_t>(at_.j0 - kFilterReach, 0), std::min(at_.j1 + kFilterReach, width_)};
}

void FilterPlanes::finish() {
  const Window in = filled();
  const Window all{at_.i0 - kFilterReach, at_.i1 + kFilterReach, at_.j0 - kFilterReach, at_.j1 + kFilterReach};
  for (int32_t c = 0; c < colours_; ++c) {
    for (int64_t i = in.i0; i < in.i1; ++i) {
      std::fill(pixel(c, i, all.j0), pixel(c, i, in.j0), *pixel(c, i, in.j0));
      std::fill(pixel(c, i, in.j1), pixel(c, i, all.j1), *pixel(c, i, in.j1 - 1));
    }
    const auto copy = [&](int64_t from, int64_t to) {
      std::copy(pixel(c, from, all.j0), pixel(c, from, all.j1), pixel(c, to, all.j0));
    };
    for (int64_t i = all.i0; i < in.i0; ++i) copy(in.i0, i);
    for (int64_t i = in.i1; i < all.i1; ++i) copy(in.i1 - 1, i);
  }
  // Grey counts three times, so that bounds mean the same.
  const int64_t plane = rows_ * stride_;
  int16_t* sum = values_ + colours_ * plane;
  const int64_t second = colours_ > 1 ? plane : 0, third = 2 * second;
  for (int64_t k = 0; k < plane; ++k)
    sum[k] = static_cast<int16_t>(values_[k] + values_[k + second] + values_[k + third]);
}

FilterRow FilterPlanes::row(int64_t i) const {
  return {pixel(0, i, at_.j0), pixel(colours_, i, at_.j0), stride_, rows_ * stride_, at_.width()};
}

void each_filter_row(const FilterPlanes& planes, int64_t first, int64_t last,
                     const std::function<void(const FilterRow&, const BusyRows&, int64_t)>& use) {
  const FilterKernels kernels = filter_kernels();
  const int64_t room = filter_room(planes.at().width() + 2) + kFilterBlock;
  std::vector<int32_t> memory(static_cast<size_t>(3 * room));
  const auto place = [&](int64_t i) { return &memory[static_cast<size_t>((i - first + 3) % 3 * room + 1)]; };
  const auto differ = [&](int64_t i) { kernels.differences(planes.row(i), place(i)); };
  differ(first - 1);
  differ(first);
  for (int64_t i = first; i < last; ++i) {
    differ(i + 1);
    use(planes.row(i), {place(i - 1), place(i), place(i + 1)}, i);
  }
}

FilterWeights::FilterWeights(const PictureFilter& f) : colours(f.colours), classes(f.classes), values(f.size()) {
  for (int32_t b = 1; b < kFilterBins; ++b)
    if (f.class_of[b] != f.class_of[b - 1]) bounds.push_back(kFilterBounds[b - 1]);
  const double unit = std::ldexp(1.0, -f.step);
  const Opponent space(colours);
  // From RGB to opponent colours, through the filter, and back: matrices of colours for every tap.
  for (int32_t k = 0; k < classes; ++k)
    for (int32_t t = 0; t < kFilterTaps; ++t)
      for (int32_t to = 0; to < colours; ++to)
        for (int32_t from = 0; from < colours; ++from) {
          double sum = 0;
          for (int32_t a = 0; a < colours; ++a)
            for (int32_t b = 0; b < colours; ++b) {
              const size_t at = static_cast<size_t>((k * colours + a) * f.taps() + b * kFilterTaps + t);
              sum += space(a, to) * f.coefficients[at] * space(b, from);
            }
          values[static_cast<size_t>((k * colours + to) * f.taps() + from * kFilterTaps + t)] =
              static_cast<float>(sum * unit);
        }
}

FilterKernels filter_kernels() {
  switch (transform_isa()) {
#if defined(CCM_HAVE_FMA512VNNI)
    case kFma512Vnni:
      return fma512vnni_filter_kernels();
#endif
#if defined(CCM_HAVE_FMA)
    case kFmaVnni:
    case kFma:
      return fma_filter_kernels();
#endif
    default:
      return plain_filter_kernels();
  }
}

}  // namespace ccm
