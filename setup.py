"""Builds the two native libraries of ccm_fast. Everything declarative is in pyproject.toml.

    ccm_fast/_ops.torch.so    torch operators: csrc/ops*.cpp and the core; loaded with torch.ops.load_library. It is no
                              Python module (hence the odd name, which `import` does not find) and is on torch's
                              stable ABI, so it fits every torch >= 2.10.
    ccm_fast/_rans.*.so       pybind11 module: csrc/python/*.cpp and the same core objects.

The core is csrc/cpu/*.cpp, which knows neither torch nor Python. One build.ninja is written for all of it, so that
files compile in parallel, each with its own flags, and again only when they or their headers have changed.

Environment switches
    CCM_CUDA=auto|0|1   there are no CUDA kernels yet: auto and 0 build for the CPU, 1 stops with an error
    CCM_TORCH=FOLDER    the torch package to build against, where it is not found by itself
    CCM_WERROR=0|1      treat warnings as errors; by default in place (developers), but not in wheels, which meet
                        compilers newer than the code
    CXX, CXXFLAGS, LDFLAGS, MAX_JOBS   as everywhere
"""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE / "_build_backend"))  # `python setup.py ...` does not go through the PEP 517 backend
from ccm_build import find_torch  # noqa: E402

TORCH_TARGET = "0x020a000000000000"  # torch 2.10, the oldest that we load in
X86 = platform.machine().lower() in ("x86_64", "amd64")
MAC = sys.platform == "darwin"

# Stem suffix -> (macro, flags). Such a file holds one instruction set's kernels and is entered only after a CPU check
# at run time. Everything else is compiled for the plain architecture: never -march=native, since wheels travel.
ISA = {
    "_avx2": ("CCM_HAVE_AVX2", ["-mavx2"]),
    "_avxvnni": ("CCM_HAVE_AVXVNNI", ["-mavx2", "-mavxvnni"]),
    "_avx512vnni": (
        "CCM_HAVE_AVX512VNNI",
        ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"],
    ),
}


def version():
    scope = {}
    exec((HERE / "ccm_fast/version.py").read_text(), scope)
    return scope["__version__"]


def check_cuda_switch():
    # The place for csrc/cuda/*.cu: decide on CUDA from CCM_CUDA and from nvcc being there (never from a visible GPU),
    # then add a rule `nvcc` to Ninja.text() and its objects to the inputs of the _ops link in write_ninja().
    mode = os.environ.get("CCM_CUDA", "auto")
    if mode not in ("auto", "0", "1"):
        sys.exit(f"CCM_CUDA={mode}: expected auto, 0 or 1.")
    if mode == "1":
        sys.exit("CCM_CUDA=1: this version of ccm_fast has no CUDA kernels; unset CCM_CUDA to build for the CPU.")


def find_compiler():
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    what = f"CXX={wanted} was not found" if wanted else "no C++ compiler was found"
    sys.exit(f"ccm_fast: {what}: install one with C++17 (Debian, Ubuntu: `apt-get install g++`), or set CXX.")


def compiler_version(compiler):
    out = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    return out.splitlines()[0].strip() if out else "unknown"


def compiles(compiler, flags):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("int probe() { return 0; }\n")
        command = [*compiler, "-Werror", *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        return subprocess.run(command, capture_output=True).returncode == 0


def find_ninja():
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        pass
    found = shutil.which("ninja")
    if not found:
        sys.exit(f"ccm_fast: ninja was not found: run `{sys.executable} -m pip install ninja pybind11`.")
    return found


def pybind11_include():
    try:
        import pybind11
    except ImportError:
        sys.exit(f"ccm_fast: pybind11 was not found: run `{sys.executable} -m pip install ninja pybind11`.")
    return pybind11.get_include()


def job_count():
    """Cores, capped by memory: a file takes up to 1 GB, and machines with many cores and little memory exist."""
    if os.environ.get("MAX_JOBS", "").isdigit():
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():  # counts caches as free, as one should
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, free // 10**9))


def quoted(words):
    """Words as a ninja variable: quoted for the shell, `$` escaped for ninja."""
    return shlex.join(map(str, words)).replace("$", "$$")


def path(p):
    """A path in a ninja build line."""
    return str(p).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class Ninja:
    """The text of a build.ninja: rules first, then one build line per object and library."""

    def __init__(self, compiler):
        self.lines = [
            "ninja_required_version = 1.5",
            f"cxx = {quoted(compiler)}",
            "rule cxx",
            "  command = $cxx -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $flavour $in",
            "rule link",
            "  command = $cxx $in $flags -o $out",
            "  description = link $out",
        ]

    def build(self, output, rule, inputs, flags, **variables):
        self.lines.append(f"build {path(output)}: {rule} {' '.join(map(path, inputs))}")
        self.lines += [f"  {key} = {value}" for key, value in {"flags": quoted(flags), **variables}.items()]

    def write(self, file):
        text = "\n".join(self.lines) + "\n"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


class Build(build_ext):
    """Compiles with ninja, then lets setuptools place the products as it does its own."""

    def get_ext_filename(self, name):
        if name.endswith("_ops"):
            return os.path.join(*name.split(".")) + ".torch.so"
        return super().get_ext_filename(name)

    def build_extensions(self):
        if sys.platform == "win32":
            sys.exit("ccm_fast: building on Windows is not supported yet; it works in WSL.")
        check_cuda_switch()
        torch, compiler = find_torch(), find_compiler()
        # Not self.build_temp: an editable install makes that afresh each time. One folder per Python, torch and mode,
        # so that virtual environments which share this tree do not throw away each other's objects.
        key = hashlib.sha256(f"{torch.root} {self.werror}".encode()).hexdigest()[:8]
        folder = HERE / "build" / f"native-{sys.implementation.cache_tag}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        products = self.write_ninja(folder, torch, compiler)
        command = [find_ninja(), "-C", str(folder), f"-j{job_count()}"]
        if self.verbose > 1:
            command.append("-v")
        if subprocess.run(command).returncode:
            sys.exit("ccm_fast: the build failed; the compiler's message is above.")
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not over the old file: a process that has it mapped would crash.
            target.unlink(missing_ok=True)
            shutil.copyfile(products[ext.name], target)
        info = Path(self.build_lib, "ccm_fast", "_build_info.json")
        info.parent.mkdir(parents=True, exist_ok=True)
        info.write_text(json.dumps(self.info, indent=2) + "\n")

    def run(self):
        # setuptools clears self.inplace while it builds and copies the extensions afterwards; remember what was asked.
        self.developing = bool(self.inplace or getattr(self, "editable_mode", False))
        self.werror = os.environ.get("CCM_WERROR", "1" if self.developing else "0") != "0"
        super().run()
        if self.developing:
            shutil.copyfile(Path(self.build_lib, "ccm_fast", "_build_info.json"), HERE / "ccm_fast/_build_info.json")

    def write_ninja(self, folder, torch, compiler):
        cpu = sorted((HERE / "csrc/cpu").glob("*.cpp"))
        ops = [HERE / "csrc/ops.cpp", *sorted((HERE / "csrc").glob("ops_*.cpp"))]
        python = sorted((HERE / "csrc/python").glob("*.cpp"))

        available = {suffix: macro for suffix, (macro, flags) in ISA.items() if X86 and compiles(compiler, flags)}
        macros = ["-DCCM_X86_KERNELS" if X86 else "-DCCM_NO_X86_KERNELS", *(f"-D{m}" for m in available.values())]
        common = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-pthread"]
        common += [
            "-Wall",
            "-Wextra",
            *(["-Werror"] if self.werror else []),
            *macros,
            f"-I{HERE / 'csrc/include'}",
            f"-I{HERE / 'csrc'}",
        ]
        extra = shlex.split(os.environ.get("CXXFLAGS", ""))

        ninja = Ninja(compiler)

        def compile_all(sources, flavour, flags):
            objects = []
            for source in sources:
                suffix = next((s for s in ISA if source.stem.endswith(s)), None)
                if suffix and suffix not in available:
                    why = "the compiler does not know its flags" if X86 else "this is no x86-64"
                    print(f"ccm_fast: leaving out {source.relative_to(HERE)}: {why}")
                    continue
                target = folder / flavour / f"{source.stem}.o"
                own = ISA[suffix][1] if suffix else []
                ninja.build(target, "cxx", [source], [*common, *flags, *own, *extra], flavour=flavour)
                objects.append(target)
            return objects

        identity = compiler_version(compiler)
        torch_flags = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f'-DCCM_TORCH_VERSION="{torch.version}"']
        torch_flags += [f'-DCCM_COMPILER="{identity.replace(" ", "_")}"']
        for include in torch.include_dirs:
            torch_flags += ["-isystem", include]
        python_flags = [f'-DCCM_VERSION="{version()}"', "-isystem", pybind11_include()]
        for include in self.include_dirs:  # Python's own, from distutils
            python_flags += ["-isystem", include]

        core = compile_all(cpu, "cpu", [])
        ops_objects = compile_all(ops, "ops", torch_flags)
        python_objects = compile_all(python, "python", python_flags)

        shared = ["-shared", "-pthread", *shlex.split(os.environ.get("LDFLAGS", ""))]
        # No run path to torch: whoever loads this has imported torch, and its libraries are then found by their name.
        link_torch = [f"-L{torch.library_dir}", "-ltorch_cpu", "-ltorch"]
        link_ops = [*shared, *link_torch] if MAC else [*shared, "-Wl,-z,defs", "-Wl,--no-as-needed", *link_torch]
        link_python = [*shared, *(["-undefined", "dynamic_lookup"] if MAC else [])]
        products = {"ccm_fast._ops": folder / "_ops.torch.so", "ccm_fast._rans": folder / "_rans.so"}
        ninja.build(products["ccm_fast._ops"], "link", [*ops_objects, *core], link_ops)
        ninja.build(products["ccm_fast._rans"], "link", [*python_objects, *core], link_python)
        ninja.write(folder / "build.ninja")

        self.info = {
            "version": version(),
            "torch": torch.version,
            "torch_minimum": "2.10",
            "python": platform.python_version(),
            "machine": platform.machine(),
            "compiler": identity,
            "isa": [s.lstrip("_") for s in available],
            "cuda": None,
        }
        return products


setup(
    # The sources are listed in build_extensions(); MANIFEST.in puts them into the source distribution.
    ext_modules=[Extension("ccm_fast._ops", []), Extension("ccm_fast._rans", [])],
    cmdclass={"build_ext": Build},
)
