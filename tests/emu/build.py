"""Compiles kernels for the emulator: `build("plain")` returns a shared library of all of them and of the CPU engine.

A folder in build/ for each flavour and fault; ninja compiles again what has changed. Needs g++ and ninja only.
Sanitizers and micro kernels are programs, not libraries: a sanitizer wants to be in a process from its start.
"""

import fcntl
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CXX = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or "c++"]

FLAVOURS = {
    "plain": ["-O3", "-g1"],
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-g", "-fsanitize=thread"],
    "coverage": ["-O1", "-g", "--coverage", "-fprofile-update=single"],
}
COMMON = ["-std=c++17", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DCCM_EMU"]
INCLUDES = [f"-I{ROOT / folder}" for folder in ("csrc", "csrc/include", "tests/emu")]


def find_ninja():
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        return shutil.which("ninja") or sys.exit("ninja was not found: pip install ninja")


def flags_of(source, flavour, fault):
    """Flags of one file: the emulator itself and the CPU engine are fast and uninstrumented wherever that is sound."""
    ours = source.is_relative_to(ROOT / "csrc/cuda") or source.suffix == ".cu"
    if source.name == "cuda_emu.cpp":  # see there: ThreadSanitizer must not see it
        return [*COMMON, *(FLAVOURS["asan"] if flavour == "asan" else FLAVOURS["plain"])]
    if not ours and flavour == "coverage":
        return [*COMMON, *FLAVOURS["plain"]]
    # Kernels multiply and shift as GPUs do, and the emulated ones are not to be optimised around undefined behaviour.
    return [*COMMON, *FLAVOURS[flavour], *([f"-DCCM_FAULT={fault}"] if ours and fault else [])]


def sources(kind):
    """Files of one product: "engine" (all kernels, host code, CPU engine, C API), or "micro" (the emulator's own)."""
    emulator = [HERE / "cuda_emu.cpp"]
    if kind == "micro":
        return [*emulator, HERE / "micro.cu"]
    cpu = [p for p in sorted((ROOT / "csrc/cpu").glob("*.cpp")) if "_avx512" not in p.stem and "_avxvnni" not in p.stem]
    cuda = sorted([*(ROOT / "csrc/cuda").glob("*.cu"), *(ROOT / "csrc/cuda").glob("*.cpp")])
    return [*emulator, *cpu, *cuda, HERE / "emu_api.cpp"]


def make(kind, flavour, fault=0, program=False):
    """Builds one product and returns its path. Safe to call from several processes."""
    folder = ROOT / "build" / f"emu-{kind}-{flavour}{f'-fault{fault}' if fault else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    x86 = platform.machine() in ("x86_64", "AMD64")
    lines = [
        "rule cxx",
        f"  command = {shlex.join(CXX)} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {shlex.join(CXX)} $in $flags -o $out",
    ]
    objects = []
    files = sources(kind) + ([HERE / "emu_check.cpp"] if program and kind == "engine" else [])
    for source in files:
        flags = [*flags_of(source, flavour, fault), *INCLUDES]
        if x86 and "csrc/cpu" in source.as_posix():
            flags += ["-DCCM_X86_KERNELS", "-DCCM_HAVE_AVX2", *(["-mavx2"] if source.stem.endswith("_avx2") else [])]
        elif "csrc/cpu" in source.as_posix():
            flags += ["-DCCM_NO_X86_KERNELS"]
        if source.suffix == ".cu":
            flags += ["-x", "c++"]
        objects.append(f"{source.stem}{source.suffix}.o")
        lines += [f"build {objects[-1]}: cxx {source}", f"  flags = {shlex.join(flags)}"]
    program = program or kind == "micro"
    product = kind if program else f"{kind}.so"
    link = [f for f in FLAVOURS[flavour] if f.startswith(("-fsanitize", "--coverage"))] + ["-pthread"]
    lines += [
        f"build {product}: link {' '.join(objects)}",
        f"  flags = {shlex.join(link + ([] if program else ['-shared']))}",
    ]
    lines += [f"default {product}"]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text, file = "\n".join(lines) + "\n", folder / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        done = subprocess.run([find_ninja(), "-C", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{done.stdout[-8000:]}{done.stderr[-2000:]}")
    return folder / product


def build(flavour="plain", fault=0):
    """The shared library of everything, with the C functions of emu_api.cpp."""
    return make("engine", flavour, fault)


def build_program(flavour, fault=0):
    """The same as a program, emu_check.cpp, for sanitizers."""
    return make("engine", flavour, fault, program=True)


def build_micro(flavour="plain", fault=0):
    """The emulator's own test kernels, micro.cu, as a program."""
    return make("micro", flavour, fault)


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
