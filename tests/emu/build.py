"""Compiles kernels for the emulator: `build("plain")` returns a shared library of all of them and of the CPU engine.

A folder in build/ for each flavour and fault; ninja compiles again what has changed. Needs g++ and ninja only.
Sanitizers and micro kernels are programs, not libraries: a sanitizer wants to be in a process from its start.
"""

import fcntl
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EMULATOR = HERE / "emulator"
ROOT = HERE.parent.parent
CXX = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or "c++"]

sys.path.insert(0, str(ROOT / "_build_backend"))
from ccm_build import find_torch  # noqa: E402
from ccm_sources import CSRC, X86, core_sources, isa_flags, isa_macros  # noqa: E402

TORCH_TARGET = "0x020a000000000000"  # as in setup.py
CUDA = CSRC / "entropy/cuda"
ENGINE_ROOMS = ("base", "model", "entropy/cpu")  # what the engines and the check of one against the other need
CORE_ISAS = ("_avx2",) if X86 else ()
FAULTS = range(9)  # CCM_FAULT: 0 is the real thing
FLAVOURS = {
    "plain": ["-O3", "-g1"],
    # Of UBSan what a GPU minds; all of it takes minutes to compile.
    "asan": ["-O1", "-g", "-fsanitize=address,alignment", "-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-g", "-fsanitize=thread"],
    "coverage": ["-O1", "-g", "--coverage", "-fprofile-update=single"],
}
COMMON = ["-std=c++17", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DCCM_EMU"]
INCLUDES = [f"-I{ROOT / folder}" for folder in ("csrc", "tests/cpp", "tests/emu")]


def find_ninja():
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        return shutil.which("ninja") or sys.exit("ninja was not found: pip install ninja")


def flags_of(source, flavour, fault):
    """Flags of one file: the emulator itself is never instrumented for ThreadSanitizer, only kernels for coverage."""
    flags = [*COMMON, *INCLUDES, *(["-x", "c++"] if source.suffix == ".cu" else [])]
    if source.is_relative_to(CSRC) and source.parent != CUDA:
        flags += [*isa_macros(CORE_ISAS), *isa_flags(source)]
    if source.parent == EMULATOR and flavour == "tsan":
        flavour = "plain"
    if source.parent != CUDA and flavour == "coverage":
        flavour = "plain"
    if source.name == "ops_cuda.cpp":
        flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
        flags += [word for folder in find_torch().include_dirs for word in ("-isystem", str(folder))]
    return [*flags, *FLAVOURS[flavour], *([f"-DCCM_FAULT={fault}"] if fault else [])]


@functools.cache
def faults_of(source):
    """The planted faults that a file has, itself or in what it includes."""
    text = source.read_text(encoding="utf-8")
    found = {int(n) for n in re.findall(r"CCM_FAULT [!=]= (\d+)", text)}
    included = (CSRC / name for name in re.findall(r'#include "(entropy/cuda/[^"]+)"', text))
    return found.union(*map(faults_of, included))


def sources(kind):
    """Files of one product: "engine" (all kernels, host code, CPU engine, C API), or "micro" (the emulator's own)."""
    emulator = sorted(EMULATOR.glob("*.cpp"))
    if kind == "micro":
        return [*emulator, HERE / "micro.cu"]
    cpu = core_sources(ENGINE_ROOMS, CORE_ISAS)
    cuda = sorted([*CUDA.glob("*.cu"), *CUDA.glob("*.cpp")])
    return [*emulator, *cpu, *cuda, HERE / "emu_api.cpp"]


def rules(kind, flavour):
    """The text of a build.ninja, for the library and for the program, without and with every fault."""
    cxx = shlex.join(CXX)
    lines = [
        "rule cxx",
        f"  command = {cxx} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    lines += ["rule link", f"  command = {cxx} $in $flags -o $out"]
    link = [f for f in FLAVOURS[flavour] if f.startswith(("-fsanitize", "--coverage"))] + ["-pthread"]
    made = set()
    for fault in FAULTS:
        objects = []
        for source in [*sources(kind), *([HERE / "emu_check.cpp"] if kind == "engine" else [])]:
            own = fault if kind == "engine" and source.suffix == ".cu" and fault in faults_of(source) else 0
            target = f"{source.name}{f'.fault{own}' if own else ''}.o"
            objects.append(target)
            if target not in made:
                made.add(target)
                lines += [f"build {target}: cxx {source}", f"  flags = {shlex.join(flags_of(source, flavour, own))}"]
        end = f"-fault{fault}" if fault else ""
        lines += [f"build {kind}{end}: link {' '.join(objects)}", f"  flags = {shlex.join(link)}"]
        if kind == "engine":
            library = [o for o in objects if not o.startswith("emu_check")]
            lines += [f"build engine{end}.so: link {' '.join(library)}", f"  flags = {shlex.join([*link, '-shared'])}"]
    if kind == "engine":
        objects = [f"{source.name}.o" for source in sources(kind)]
        source = CSRC / "torch/ops_cuda.cpp"
        lines += [f"build ops_cuda.cpp.o: cxx {source}", f"  flags = {shlex.join(flags_of(source, flavour, 0))}"]
        flags = [*link, "-shared", "-Wl,--no-as-needed", f"-L{find_torch().library_dir}", "-ltorch_cpu", "-ltorch"]
        lines += [f"build ops.so: link ops_cuda.cpp.o {' '.join(objects)}", f"  flags = {shlex.join(flags)}"]
    return "\n".join(lines) + "\n"


def make(kind, flavour, product):
    """Builds one product and returns its path. Safe to call from several processes."""
    folder = ROOT / "build" / f"emu-{kind}-{flavour}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text, file = rules(kind, flavour), folder / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        done = subprocess.run([find_ninja(), "-C", str(folder), product], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{done.stdout[-8000:]}{done.stderr[-2000:]}")
    return folder / product


def build(flavour="plain"):
    """The shared library of everything, with the C functions of emu_api.cpp."""
    return make("engine", flavour, "engine.so")


def build_ops(flavour="plain"):
    """The operators ccm_fast_emu::*, which are those on CUDA tensors, for torch.ops.load_library."""
    return make("engine", flavour, "ops.so")


def build_program(flavour, fault=0):
    """The same as a program, emu_check.cpp, for sanitizers; with a planted fault if one is named."""
    return make("engine", flavour, f"engine-fault{fault}" if fault else "engine")


def build_micro(flavour="plain"):
    """The emulator's own test kernels, micro.cu, as a program."""
    return make("micro", flavour, "micro")


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
