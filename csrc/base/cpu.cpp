#include "base/cpu.h"

#include <cstdlib>
#include <cstring>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ccm {
namespace {

#if defined(__aarch64__) && defined(__APPLE__)
bool has(const char* feature) {
  int value = 0;
  size_t size = sizeof value;
  return !sysctlbyname(feature, &value, &size, nullptr, 0) && value;
}
#endif

#if defined(__x86_64__) || defined(__i386__)
// Parts of a thread's state that the system saves: bits of an x86 processor's XCR0. macOS saves those of AVX-512 only
// once they have been used, so that there they seem to be missing.
constexpr uint32_t kAvxState = 6, kAvx512State = 0xe0 | kAvxState;

uint32_t saved_state() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kOsSavesState = 1u << 27;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsSavesState)) return 0;
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Asked of the processor: compilers differ in the names that they know, and some need a library for the answer.
uint32_t ask_x86() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const uint32_t saved = saved_state();
  if ((saved & kAvxState) != kAvxState || !__get_cpuid(1, &a, &b, &c, &d)) return 0;
  constexpr unsigned kFma = 1u << 12;
  uint32_t found = c & kFma ? uint32_t{kCpuFma} : 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned leaves = a;
  constexpr unsigned kAvx2 = 1u << 5, kF = 1u << 16, kBw = 1u << 30, kVl = 1u << 31, kVnni = 1u << 11;
  if (b & kAvx2) found |= kCpuAvx2;
  if ((saved & kAvx512State) == kAvx512State) {
    if ((b & kF) && (b & kVl)) found |= kCpuAvx512;
    if (b & kBw) found |= kCpuAvx512Bw;
    if (c & kVnni) found |= kCpuAvx512Vnni;
  }
  constexpr unsigned kAvxVnni = 1u << 4;
  if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni)) found |= kCpuAvxVnni;
  return found;
}
#endif

uint32_t ask() {
  uint32_t found = 0;
#if defined(__x86_64__) || defined(__i386__)
  found = ask_x86();
#elif defined(__aarch64__) && defined(__linux__)  // bits of Linux's ABI, whose names older headers lack
  if (getauxval(AT_HWCAP) >> 20 & 1) found |= kCpuDotProducts;
  if (getauxval(AT_HWCAP2) >> 13 & 1) found |= kCpuMixedProducts;
#elif defined(__aarch64__) && defined(__APPLE__)
  if (has("hw.optional.arm.FEAT_DotProd")) found |= kCpuDotProducts;
  if (has("hw.optional.arm.FEAT_I8MM")) found |= kCpuMixedProducts;
#endif
  return found;
}

#if defined(__x86_64__) && defined(__linux__)
// Linux's ABI, whose names headers older than its 5.16 lack.
constexpr int kGetPermission = 0x1022, kAskPermission = 0x1023;  // of arch_prctl
constexpr unsigned kTileConfig = 17, kTileData = 18;             // components of a thread's state

bool ask_for_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kAmxTile | kAmxInt8)) != (kAmxTile | kAmxInt8)) return false;
  constexpr uint32_t kBoth = 1u << kTileConfig | 1u << kTileData;
  if ((saved_state() & kBoth) != kBoth) return false;
  uint64_t granted = 0;
  return !syscall(SYS_arch_prctl, kAskPermission, kTileData) && !syscall(SYS_arch_prctl, kGetPermission, &granted) &&
         granted >> kTileData & 1;
}
#else
bool ask_for_tiles() { return false; }
#endif

struct Limit {
  const char* name;
  uint32_t allowed;
};

constexpr uint32_t kFloats = kCpuAvx2 | kCpuFma;
constexpr Limit kLimits[] = {{"scalar", 0}, {"avx2", kFloats}, {"avxvnni", kFloats | kCpuAvxVnni}};

}  // namespace

uint32_t cpu_features() {
  static const uint32_t features = ask();
  return features;
}

const char* isa_limit() {
  const char* named = std::getenv("CCM_FAST_ISA");
  return named ? named : "";
}

bool may_use_tiles() {
  static const bool granted = (!*isa_limit() || !std::strcmp(isa_limit(), "avx512amx")) && ask_for_tiles();
  return granted;
}

bool vectors_allowed() { return std::strcmp(isa_limit(), "scalar") != 0; }

uint32_t allowed_features() {
  for (const Limit& limit : kLimits)
    if (!std::strcmp(isa_limit(), limit.name)) return cpu_features() & limit.allowed;
  return cpu_features();
}

}  // namespace ccm
