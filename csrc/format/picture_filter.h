// The picture filter (FORMAT.md, section 8): what an encoder found to bring the decoded picture nearer to the original.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ccm {

// Pixels are filtered in units of 1/32 of an 8-bit level.
constexpr int32_t kFilterUnits = 32, kFilterWhite = 255 * kFilterUnits, kFilterMiddle = 128 * kFilterUnits;

// What a filter sees of one colour: the pixel itself, less the middle and by eight, and the sums over rings of four
// pixels at the same distance, less four times itself. Distances squared are 1, 2, 4, 8 and 9.
constexpr int32_t kFilterTaps = 6, kFilterReach = 3;

// Pixels are told apart by how busy the picture is around them, in half octaves.
constexpr int32_t kFilterBins = 16;
constexpr std::array<int32_t, kFilterBins - 1> kFilterBounds{256,  362,  512,  724,   1024,  1448,  2048, 2896,
                                                             4096, 5793, 8192, 11585, 16384, 23170, 32768};

// Coefficients of a colour of the orthonormal opponent space for each class: what is added to it for one unit of each
// tap of each colour, in units of 2^-step.
struct PictureFilter {
  int32_t colours = 3;  // 1: grey pictures
  int32_t step = 8;     // 5 .. 12
  int32_t classes = 1;
  std::array<uint8_t, kFilterBins> class_of{};  // ascending
  std::vector<int16_t> coefficients;            // [classes][colours][colours * kFilterTaps]

  int32_t taps() const { return colours * kFilterTaps; }
  size_t size() const { return static_cast<size_t>(classes) * colours * taps(); }
};

// Largest magnitude of a coefficient.
constexpr int32_t kFilterMost = 1023;

}  // namespace ccm
