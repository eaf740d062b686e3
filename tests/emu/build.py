"""Compiles kernels for the emulator: `build("plain")` returns a shared library of all of them and of the CPU engine.

All of it is in build/emu, a folder for each flavour; ninja compiles again what has changed. Needs g++ and ninja only.
Sanitizers and micro kernels are programs, not libraries: a sanitizer wants to be in a process from its start.
"""

import functools
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EMULATOR = HERE / "emulator"
ROOT = HERE.parent.parent

sys.path[:0] = [str(ROOT / "_build_backend"), str(ROOT / "tests")]
from ccm_build import find_torch  # noqa: E402
from ccm_sources import CSRC, CUDA, X86, core_sources, cuda_sources, isa_flags, isa_macros  # noqa: E402
from ninja_build import Rules  # noqa: E402

TORCH_TARGET = "0x020a000000000000"  # as in setup.py
CUDA_ROOMS = tuple(CSRC / room for room in CUDA)
OPERATORS = sorted((CSRC / "torch").glob("*_cuda.cpp"))
ENGINE_ROOMS = ("base", "model", "entropy/cpu")  # what the engines and the check of one against the other need
CORE_ISAS = ("_avx2",) if X86 else ()
FAULTS = range(12)  # CCM_FAULT: 0 is the real thing
FILTER_FAULTS = (0, 12)
FLAVOURS = {
    # -O3 compiles for 17 s of processor time longer than -O1, and the tests then take as long.
    "plain": ["-O1", "-g1"],
    # Of UBSan what a GPU minds; all of it takes minutes to compile. With -O1 ASan's kernels take four times as long.
    "asan": ["-Og", "-g1", "-fsanitize=address,alignment", "-fno-sanitize-recover=all"],
    "tsan": ["-Og", "-g1", "-fsanitize=thread"],
    "coverage": ["-O1", "-g", "--coverage", "-fprofile-update=single"],
}
COMMON = ["-std=c++17", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DCCM_EMU"]
INCLUDES = [f"-I{ROOT / folder}" for folder in ("csrc", "tests/cpp", "tests/emu")]


def flavour_of(source, flavour):
    """What one file is really compiled as: the CPU engine, whose sanitizers have tests of their own, is always plain,
    the emulator itself is never instrumented for ThreadSanitizer, only kernels are for coverage.
    """
    if source.is_relative_to(CSRC) and source.parent not in (*CUDA_ROOMS, CSRC / "torch"):
        return "plain"
    if source.parent == EMULATOR and flavour == "tsan":
        return "plain"
    return "plain" if flavour == "coverage" and source.parent not in CUDA_ROOMS else flavour


def flags_of(source, flavour, fault):
    """Flags of one file."""
    flags = [*COMMON, *INCLUDES, *(["-x", "c++"] if source.suffix == ".cu" else [])]
    if source.is_relative_to(CSRC) and source.parent not in CUDA_ROOMS:
        flags += [*isa_macros(CORE_ISAS), *isa_flags(source)]
    if source in OPERATORS:
        flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
        flags += [word for folder in find_torch().include_dirs for word in ("-isystem", str(folder))]
    return [*flags, *FLAVOURS[flavour], *([f"-DCCM_FAULT={fault}"] if fault else [])]


@functools.cache
def faults_of(source):
    """The planted faults that a file has, itself or in what it includes."""
    text = source.read_text(encoding="utf-8")
    found = {int(n) for n in re.findall(r"CCM_FAULT [!=]= (\d+)", text)}
    included = (CSRC / name for name in re.findall(r'#include "((?:entropy|transforms)/cuda/[^"]+)"', text))
    return found.union(*map(faults_of, included))


def sources(kind):
    """Files of one product: "engine" (all kernels, host code, CPU engine, C API), "filter" (the
    picture filter alone, as a program), or "micro" (the emulator's own).

    The CPU engine comes last: of inline functions that it shares with kernels, the instrumented ones are linked.
    """
    emulator = sorted(EMULATOR.glob("*.cpp"))
    if kind == "micro":
        return [*emulator, HERE / "micro.cu"]
    if kind == "filter":
        return [*emulator, CSRC / "transforms/cuda/picture_filter_cuda.cu", HERE / "filter_check.cpp"]
    cuda = sorted([*cuda_sources("*.cu"), *cuda_sources("*.cpp")])
    return [*emulator, *cuda, HERE / "emu_api.cpp", *core_sources(ENGINE_ROOMS, CORE_ISAS)]


def compiled(rules, files, flavour, fault=0):
    """Adds the objects of these files to the rules, with one planted fault in those that have it; their names."""
    names = []
    for source in files:
        own = fault if source.suffix == ".cu" and fault in faults_of(source) else 0
        kind = flavour_of(source, flavour)
        target = f"{kind}/{source.name}{f'.fault{own}' if own else ''}.o"
        names.append(rules.compile(target, source, flags_of(source, kind, own)))
    return names


@functools.cache
def rules():
    """How everything is made: libraries and programs of every flavour, programs with every fault."""
    found = Rules()
    engine = sources("engine")
    for flavour, flags in FLAVOURS.items():
        link = [f for f in flags if f.startswith(("-fsanitize", "--coverage"))] + ["-pthread"]
        found.link(f"{flavour}/micro", compiled(found, sources("micro"), flavour), link)
        found.link(f"{flavour}/engine.so", compiled(found, engine, flavour), [*link, "-shared"])
        for fault in FAULTS:
            end = f"-fault{fault}" if fault else ""
            objects = compiled(found, [HERE / "emu_check.cpp", *engine], flavour, fault)
            found.link(f"{flavour}/engine{end}", objects, link)
        for fault in FILTER_FAULTS:
            objects = compiled(found, sources("filter"), flavour, fault)
            found.link(f"{flavour}/filter{f'-fault{fault}' if fault else ''}", objects, link)
        torch = [*link, "-shared", "-Wl,--no-as-needed", f"-L{find_torch().library_dir}", "-ltorch_cpu", "-ltorch"]
        found.link(f"{flavour}/ops.so", compiled(found, [*OPERATORS, *engine], flavour), torch)
    return found


def make(flavour, product):
    """Builds one product and returns its path. Safe to call from several processes."""
    return rules().make("emu", f"{flavour}/{product}")


def build(flavour="plain"):
    """The shared library of everything, with the C functions of emu_api.cpp."""
    return make(flavour, "engine.so")


def build_ops(flavour="plain"):
    """The operators ccm_fast_emu::*, which are those on CUDA tensors, for torch.ops.load_library."""
    return make(flavour, "ops.so")


def build_program(flavour, fault=0):
    """The same as a program, emu_check.cpp, for sanitizers; with a planted fault if one is named."""
    return make(flavour, f"engine-fault{fault}" if fault else "engine")


def build_filter(flavour="plain", fault=0):
    """The picture filter as a program, filter_check.cpp, for sanitizers; with a planted fault if one is named."""
    return make(flavour, f"filter-fault{fault}" if fault else "filter")


def build_micro(flavour="plain"):
    """The emulator's own test kernels, micro.cu, as a program."""
    return make(flavour, "micro")


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
