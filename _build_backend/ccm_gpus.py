"""The GPUs of this machine, as the driver tells them: what a build for this machine alone is for."""

import ctypes

# CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


def gpu_architectures(library="libcuda.so.1"):
    """Architectures of this machine's GPUs, each once, like ["8.6", "9.0"]; [] without a driver or a GPU.

    Args:
        library: CUDA's driver library.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return []
    count, value = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = set()
    for device in range(count.value):
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
                break
            numbers.append(value.value)
        else:
            found.add(tuple(numbers))
    return [f"{major}.{minor}" for major, minor in sorted(found)]
