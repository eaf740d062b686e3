// The fragments of both tensor-core shapes, as csrc/entropy/cuda/device.h and the emulator take them to be, against
// CUTLASS.
#include <cstdio>
#include <cute/atom/mma_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/tensor.hpp>

int main() {
  using Large = cute::MMA_Traits<cute::SM80_16x8x32_S32S8S8S32_TN>;
  using Small = cute::MMA_Traits<cute::SM75_8x8x16_S32S8S8S32_TN>;
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 16; ++i) {  // bytes of a: four registers
      const int row = g + i / 4 % 2 * 8, k = t * 4 + i % 4 + i / 8 * 16;
      wrong += typename Large::ALayout{}(lane, i) != row + k * 16;
    }
    for (int i = 0; i < 8; ++i) wrong += typename Large::BLayout{}(lane, i) != g + (t * 4 + i % 4 + i / 4 * 16) * 8;
    for (int i = 0; i < 4; ++i) wrong += typename Large::CLayout{}(lane, i) != g + i / 2 * 8 + (t * 2 + i % 2) * 16;
    for (int i = 0; i < 4; ++i) wrong += typename Small::ALayout{}(lane, i) != g + (t * 4 + i) * 8;
    for (int i = 0; i < 4; ++i) wrong += typename Small::BLayout{}(lane, i) != g + (t * 4 + i) * 8;
    for (int i = 0; i < 2; ++i) wrong += typename Small::CLayout{}(lane, i) != g + (t * 2 + i) * 8;
  }
  std::printf("fragment elements placed differently from CUTLASS: %d\n", wrong);
  return wrong != 0;
}
