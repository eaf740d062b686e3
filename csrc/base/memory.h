// Memory that costs little to take.
#pragma once
#include <cstddef>
#include <memory>

namespace ccm {

// Memory for what a call needs besides its operands, kept for later calls: with pages fresh from the system, forward
// and backward of a small convolution (64 channels, 64 tiles) took 6.8 ms instead of 2.7. take_floats gives at least n
// floats and writes back how many; give_floats takes them back.
float* take_floats(size_t& n);
void give_floats(float* data, size_t n);

// n floats, of whatever values, for what stays and is written at once, such as packed weights. They lie beside each
// other in arrays of large pages, which one alone would rarely fill; an array is given back with the last of its
// floats.
std::shared_ptr<float> take_lasting_floats(size_t n);

// Asks for large pages behind memory that is about to be written for the first time: a plane of 75 MB has 18,000 small
// ones, and their faults take a tenth of a convolution's time. No more than a hint.
void want_huge_pages(void* memory, size_t bytes);

// Pages of an array.
struct Pages {
  void* memory = nullptr;
  size_t bytes = 0;
};

// Gives the memory of pages back to the system, which takes half a microsecond for 4 kB. The array itself stays; what
// is written there later is kept again.
void give_back(const Pages& pages);

// How much of a large array, from its start on, nobody reads any more.
class Dropped {
 public:
  static constexpr size_t kLeastDropped = size_t{8} << 20;

  // Nobody reads bytes [0, end) of an array of so many bytes. Returns the pages that are worth giving back, each once:
  // of arrays from kLeastDropped bytes on.
  [[nodiscard]] Pages to(void* memory, size_t bytes, size_t end);

 private:
  size_t end_ = 0;
};

}  // namespace ccm
