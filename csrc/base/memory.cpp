#include "base/memory.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace ccm {
namespace {

// Never taken down: threads may still give something back when the process ends.
struct Pool {
  std::mutex mutex;
  std::multimap<size_t, float*> free;
  size_t floats = 0;  // in `free`
  // The array that lasting floats are taken of, as long as some of them are in use.
  std::weak_ptr<float> array;
  float* next = nullptr;
  size_t left = 0;
};

Pool& pool() {
  static Pool* const the = [] {
    Pool* made = new Pool;
#if defined(__unix__) || defined(__APPLE__)
    // A fork waits until nobody changes the pool, so that the child finds it whole and open.
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); }, [] { pool().mutex.unlock(); });
#endif
    return made;
  }();
  return *the;
}

// All that a step of training ccm-base takes at once is less; what comes beyond goes back to the system.
constexpr size_t kPoolFloats = size_t{64} << 20;

}  // namespace

float* take_floats(size_t& n) {
  {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    // The smallest that is large enough, but none so large that it should wait for something larger.
    if (const auto found = p.free.lower_bound(n); found != p.free.end() && found->first <= 4 * n) {
      float* data = found->second;
      n = found->first;
      p.floats -= n;
      p.free.erase(found);
      return data;
    }
  }
  float* data = new float[n];
  want_huge_pages(data, n * sizeof(float));
  return data;
}

void give_floats(float* data, size_t n) {
  {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    if (p.floats + n <= kPoolFloats) {
      try {
        p.free.emplace(n, data);
        p.floats += n;
        return;
      } catch (const std::bad_alloc&) {  // destructors come here: what cannot be noted down is not kept
      }
    }
  }
  delete[] data;
}

std::shared_ptr<float> take_lasting_floats(size_t n) {
#if defined(__linux__)
  constexpr size_t kHuge = size_t{2} << 20, kArray = size_t{32} << 20, kLine = 64 / sizeof(float);
  const size_t wanted = (n + kLine - 1) / kLine * kLine, bytes = (wanted * sizeof(float) + kHuge - 1) / kHuge * kHuge;
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  std::shared_ptr<float> array = p.array.lock();
  if (!array || p.left < wanted) {
    const size_t size = std::max(bytes, kArray);
    const auto free = [](float* data) { ::operator delete[](data, std::align_val_t{kHuge}); };
    array.reset(static_cast<float*>(::operator new[](size, std::align_val_t{kHuge})), free);
    want_huge_pages(array.get(), size);
    p.array = array;
    p.next = array.get();
    p.left = size / sizeof(float);
  }
  float* const data = p.next;
  p.next += wanted;
  p.left -= wanted;
  return {array, data};
#else
  return std::shared_ptr<float>(new float[n], std::default_delete<float[]>());
#endif
}

void give_back([[maybe_unused]] const Pages& pages) {
#if defined(__linux__)
  if (pages.bytes) madvise(pages.memory, pages.bytes, MADV_DONTNEED);
#endif
}

Pages Dropped::to(void* memory, size_t bytes, size_t end) {
  constexpr size_t kAtOnce = size_t{1} << 20;       // a call of the system costs a microsecond
  constexpr uintptr_t kPage = uintptr_t{64} << 10;  // whatever the machine's are
  if (bytes < kLeastDropped || end < end_ + kAtOnce) return {};
  const uintptr_t from = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (from + end_ + kPage - 1) / kPage * kPage, last = (from + end) / kPage * kPage;
  end_ = last - from;  // a page that was read in part is given back the next time
  return {reinterpret_cast<void*>(first), last - first};
}

void want_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHuge * kHuge;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace ccm
