"""Which files of csrc belong to the core, and with which flags each is compiled. setup.py and the tests read it."""

import platform
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Folders of the core, which knows neither torch nor Python nor CUDA. format/ has headers alone.
CORE_ROOMS = ("base", "model", "entropy/cpu", "transforms", "training", "search", "compat")
# Folders of what runs on a GPU: kernels (*_cuda.cu) and what launches them.
CUDA = ("entropy/cuda", "transforms/cuda")
# What the codec without torch needs beyond these, and what it does not need of them.
CODEC_ROOMS = ("container", "codec")
CODEC_WITHOUT = ("training", "search", "compat")

# Of files of the plain architecture: products and sums are rounded one by one, as they are where there is no fused
# instruction, so that their floats are the same on every machine.
PLAIN_FLAGS = ["-ffp-contract=off"]

# Stem suffix -> (macro, flags). Such a file holds one instruction set's kernels and is entered only after a CPU check
# at run time. Everything else is compiled for the plain architecture: never -march=native, since wheels travel.
ISA_X86 = {
    "_avx2": ("CCM_HAVE_AVX2", ["-mavx2"]),
    # Square roots need no errno; with it they are a branch each.
    "_fma": ("CCM_HAVE_FMA", ["-mavx2", "-mfma", "-fno-math-errno"]),
    "_fmavnni": ("CCM_HAVE_FMAVNNI", ["-mavx2", "-mfma", "-mavxvnni", "-fno-math-errno"]),
    "_fma512vnni": (
        "CCM_HAVE_FMA512VNNI",
        ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512vnni", "-fno-math-errno"],
    ),
    "_avxvnni": ("CCM_HAVE_AVXVNNI", ["-mavx2", "-mavxvnni"]),
    "_avx512vnni": ("CCM_HAVE_AVX512VNNI", ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"]),
    "_avx512amx": (
        "CCM_HAVE_AVX512AMX",
        ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
    ),
}
ISA_ARM = {
    "_dotprod": ("CCM_HAVE_DOTPROD", ["-march=armv8.2-a+dotprod"]),
    "_i8mm": ("CCM_HAVE_I8MM", ["-march=armv8.2-a+dotprod+i8mm"]),
}
ISA_WASM = {"_simd128": ("CCM_HAVE_SIMD128", ["-msimd128"])}
ISA = {**ISA_X86, **ISA_ARM, **ISA_WASM}


def isas_of(machine):
    """Suffixes in ISA that a processor ("x86_64", as platform.machine() names it) may have."""
    machine = machine.lower()
    if machine in ("x86_64", "amd64"):
        return tuple(ISA_X86)
    if machine in ("aarch64", "arm64"):
        return tuple(ISA_ARM)
    return tuple(ISA_WASM) if machine == "wasm32" else ()


def codec_sources(isas=tuple(ISA)):
    """Paths of the .cpp files of the codec without torch and Python, as core_sources()."""
    rooms = [room for room in CORE_ROOMS if room not in CODEC_WITHOUT]
    return core_sources((*rooms, *CODEC_ROOMS), isas)


def isa_of(source):
    """The suffix in ISA that a file's stem ends with, or None for a file of the plain architecture."""
    return next((suffix for suffix in ISA if Path(source).stem.endswith(suffix)), None)


def core_sources(rooms=CORE_ROOMS, isas=tuple(ISA)):
    """Paths of the .cpp files of these rooms, without the kernels of instruction sets that are not in `isas`."""
    found = (source for room in rooms for source in sorted((CSRC / room).glob("*.cpp")))
    return [source for source in found if isa_of(source) in (None, *isas)]


def cuda_sources(pattern):
    """Paths of the files of the rooms of a GPU whose names fit a pattern."""
    return [source for room in CUDA for source in sorted((CSRC / room).glob(pattern))]


def isa_flags(source):
    """Compiler flags that one file needs beyond those of all."""
    suffix = isa_of(source)
    return ISA[suffix][1] if suffix else PLAIN_FLAGS


def isa_macros(isas):
    """-D flags that tell the dispatcher which kernels are linked."""
    return [f"-D{ISA[suffix][0]}" for suffix in isas]
