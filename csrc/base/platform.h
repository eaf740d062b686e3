// What differs between compilers for the host and for devices.
#pragma once

#if defined(__CUDACC__)
#define CCM_HD __host__ __device__ __forceinline__
#else
#define CCM_HD inline
#endif

#if defined(__GNUC__)
#define CCM_LIKELY(x) __builtin_expect(!!(x), 1)
#define CCM_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define CCM_LIKELY(x) (x)
#define CCM_UNLIKELY(x) (x)
#endif
