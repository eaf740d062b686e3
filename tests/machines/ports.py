"""macOS and Windows, as far as a Linux machine sees them; `make test-machines` runs it.

Every unit that needs no torch is read by Clang for macOS and Windows, with the systems' headers as the PyPI package
`ziglang` has them: whatever a system lacks (calls, headers, names of a compiler) is an error. For Windows, Clang then
makes a program with all kernels, and wine runs it on the golden files.
"""

import concurrent.futures
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import ccm_program
import pytest
import setuptools
import tiny
from ccm_sources import CODEC_ROOMS, CORE_ROOMS, CSRC, ISA_X86, core_sources, isa_flags, isa_macros, isas_of

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((tiny.GOLDEN / "golden.json").read_text())
FILES = [name for name, case in GOLDEN.items() if case.get("plan") != 3]  # that one has weights of its own
TARGETS = {
    "arm64-apple-macos12": ("any-darwin-any",),
    "x86_64-apple-macos12": ("any-darwin-any",),
    "x86_64-w64-windows-gnu": ("any-windows-any",),
}
# How ziglang configures the C++ library whose headers it has (a file in other installations).
LIBCXX = {
    "ABI_VERSION": 1,
    "ABI_NAMESPACE": "__1",
    "HARDENING_MODE": "_LIBCPP_HARDENING_MODE_NONE",
    "ASSERTION_SEMANTIC_DEFAULT": "_LIBCPP_ASSERTION_SEMANTIC_IGNORE",
    "HAS_MUSL_LIBC": 0,
    "HAS_VENDOR_AVAILABILITY_ANNOTATIONS": 0,
    "HAS_TIME_ZONE_DATABASE": 0,
    "PSTL_BACKEND_SERIAL": "",
    **{f"HAS_{name}": 1 for name in ("THREADS", "MONOTONIC_CLOCK", "FILESYSTEM", "LOCALIZATION", "UNICODE")},
    **{f"HAS_{name}": 1 for name in ("WIDE_CHARACTERS", "RANDOM_DEVICE", "TERMINAL")},
}
SYSTEM_HEADER = re.compile(r"#include <((?:sys|mach|linux)/\S+|(?:unistd|pthread|sched|fcntl|dlfcn|windows)\.h)>")


def clang_for(target):
    """Zig's Clang as a command for a system, with its headers."""
    zig = pytest.importorskip("ziglang", reason="without the PyPI package ziglang")
    root = Path(zig.__file__).parent
    folders = ["libcxx/include", "libcxxabi/include", "include", *(f"libc/include/{name}" for name in TARGETS[target])]
    includes = [word for folder in folders for word in ("-isystem", str(root / "lib" / folder))]
    config = [f"-D_LIBCPP_{name}={value}" for name, value in LIBCXX.items()]
    return [str(root / "zig"), "clang", f"--target={target}", "-nostdinc", *includes, *config]


@pytest.mark.parametrize("target", TARGETS)
def test_every_unit_compiles(target):
    compiler, isas = clang_for(target), isas_of(target.split("-")[0])
    common = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", '-DCCM_VERSION="test"']
    units = core_sources((*CORE_ROOMS, *CODEC_ROOMS), isas)
    assert any(unit.stem == "c_api" for unit in units) and len(units) > 40

    def messages(unit):
        command = [*compiler, *common, *isa_macros(isas), *isa_flags(unit), str(unit)]
        return subprocess.run(command, capture_output=True, text=True).stderr

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = "".join(pool.map(messages, units))
    assert not found, found[:4000]


def test_what_a_system_lacks_is_found(tmp_path):
    """The headers are those systems': Linux's calls are not among them."""
    unit = tmp_path / "unit.cpp"
    unit.write_text("#include <sys/mman.h>\nint f() { return MAP_POPULATE + memfd_create(nullptr, 0); }\n")
    for target in TARGETS:
        command = [*clang_for(target), "-std=c++17", "-fsyntax-only", str(unit)]
        said = subprocess.run(command, capture_output=True, text=True)
        assert said.returncode and re.search("MAP_POPULATE|memfd_create|not found", said.stderr), target


def test_headers_of_systems_are_in_one_room():
    """csrc/base has them, each behind a condition; csrc/torch is not for Windows."""
    rooms = {
        source.relative_to(CSRC).parts[0]
        for source in CSRC.rglob("*.*")
        if source.suffix in (".h", ".cpp", ".cu", ".cuh") and SYSTEM_HEADER.search(source.read_text(encoding="utf-8"))
    }
    assert rooms == {"base", "torch"}


@pytest.mark.parametrize("system", ["darwin", "win32", "linux"])
def test_flags_of_each_system(system, monkeypatch, tmp_path):
    """What setup.py has ninja do there: no flag that the system's linker or compiler does not know."""
    made = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: made.update(given))
    monkeypatch.setattr(sys, "platform", system)
    module = runpy.run_path(str(ROOT / "setup.py"))
    build = made["cmdclass"]["build_ext"].__new__(made["cmdclass"]["build_ext"])
    build.werror, build.include_dirs = False, []
    assert module["WINDOWS"] == (system == "win32")
    build.write_ninja(tmp_path, None, ["c++"], None)
    text = (tmp_path / "build.ninja").read_text()
    assert ("-fPIC" in text) == ("-pthread" in text) == (system != "win32")
    assert ("-z,nodelete" in text) == (system == "linux") and ("dynamic_lookup" in text) == (system == "darwin")
    library = build.get_ext_filename("ccm_fast.libccm")
    assert library.endswith(".dll" if system == "win32" else ".so")


@pytest.fixture(scope="module")
def windows_program(tmp_path_factory):
    clang = shutil.which("clang++") or next(iter(sorted(map(str, Path("/usr/lib").glob("llvm-*/bin/clang++")))), None)
    (mingw,) = sorted(Path("/usr/lib/gcc/x86_64-w64-mingw32").glob("*-posix")) or (None,)
    needed = {"clang": clang, "g++-mingw-w64-x86-64-posix": mingw, "wine": shutil.which("wine")}
    if missing := [package for package, found in needed.items() if not found]:
        pytest.skip(f"without the Debian packages {' '.join(missing)}")
    headers = [mingw / "include/c++", mingw / "include/c++/x86_64-w64-mingw32", "/usr/share/mingw-w64/include"]
    includes = [word for folder in headers for word in ("-isystem", str(folder))]
    libraries = [word for folder in (mingw, "/usr/x86_64-w64-mingw32/lib") for word in ("-B", folder, f"-L{folder}")]
    link = ["-pthread", "-static", "--ld-path=/usr/bin/x86_64-w64-mingw32-ld", *map(str, libraries)]
    (program,) = ccm_program.build(
        [clang, "--target=x86_64-w64-mingw32"],
        tmp_path_factory.mktemp("windows"),
        [ROOT / "tests/cpp/machine_check.cpp"],
        tuple(isa for isa in ISA_X86 if isa != "_avx512amx"),  # Linux alone grants tiles
        ["-pthread", *includes],
        link,
        suffix=".exe",
    )
    return program


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avxvnni", "avx512vnni"])
def test_kernels_on_windows(windows_program, isa):
    if isa not in setup_isas():
        pytest.skip("not a kernel of this processor")
    files = [tiny.GOLDEN / f"{name}.ccm" for name in FILES]
    command = ["wine", windows_program, tiny.GOLDEN / "tiny.safetensors", isa, *files]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines()] == [GOLDEN[name]["sha256"] for name in FILES]


def setup_isas():
    """Instruction sets that kernels may use here."""
    from ccm_fast import _native

    return _native.isa_list().split(",")
