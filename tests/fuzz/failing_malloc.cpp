// To be preloaded: lets one allocation fail that is made by code of the libraries whose paths hold one of some words.
// What they are given is found by the return address, so that Python, torch and the C library go on as they are.
#include <link.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
}

namespace {

struct Range {
  uintptr_t begin, end;
};
constexpr int kMost = 64;
Range ranges[kMost];
int range_count = 0;
std::atomic<long> left{-1};    // allocations before the one that fails; negative: none does
std::atomic<long> counted{0};  // allocations since failing_malloc_arm

int add_library(dl_phdr_info* info, size_t, void* words) {
  bool wanted = false;
  for (const char* word = static_cast<const char*>(words); *word; word += std::strlen(word) + 1)
    wanted |= std::strstr(info->dlpi_name, word) != nullptr;
  for (int k = 0; wanted && k < info->dlpi_phnum && range_count < kMost; ++k) {
    const ElfW(Phdr) & part = info->dlpi_phdr[k];
    if (part.p_type != PT_LOAD || !(part.p_flags & PF_X)) continue;
    const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
    ranges[range_count++] = {begin, begin + part.p_memsz};
  }
  return 0;
}

bool fails(const void* caller) {
  if (left.load(std::memory_order_relaxed) < 0) return false;
  const auto at = reinterpret_cast<uintptr_t>(caller);
  bool ours = false;
  for (int k = 0; k < range_count; ++k) ours |= at >= ranges[k].begin && at < ranges[k].end;
  if (!ours) return false;
  counted.fetch_add(1);
  return left.fetch_sub(1) == 0;
}

void* allocated(size_t size, size_t alignment, const void* caller) {
  if (fails(caller)) throw std::bad_alloc();
  const size_t whole = size ? (size + alignment - 1) / alignment * alignment : alignment;
  void* memory = alignment == 1 ? __libc_malloc(whole) : std::aligned_alloc(alignment, whole);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void* no_memory() {
  errno = ENOMEM;
  return nullptr;
}

}  // namespace

extern "C" {

// words: each ended by a null byte, the last by two. n: how many allocations go well before one fails.
void failing_malloc_arm(const char* words, long n) {
  range_count = 0;
  dl_iterate_phdr(add_library, const_cast<char*>(words));
  counted.store(0);
  left.store(n);
}

// Returns how many allocations there were.
long failing_malloc_disarm(void) {
  left.store(-1);
  return counted.load();
}

void* malloc(size_t size) { return fails(__builtin_return_address(0)) ? no_memory() : __libc_malloc(size); }
void* calloc(size_t count, size_t size) {
  return fails(__builtin_return_address(0)) ? no_memory() : __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) {
  return fails(__builtin_return_address(0)) ? no_memory() : __libc_realloc(old, size);
}

}  // extern "C"

void* operator new(size_t size) { return allocated(size, 1, __builtin_return_address(0)); }
void* operator new[](size_t size) { return allocated(size, 1, __builtin_return_address(0)); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocated(size, static_cast<size_t>(alignment), __builtin_return_address(0));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return allocated(size, static_cast<size_t>(alignment), __builtin_return_address(0));
}
