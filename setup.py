"""Builds the native libraries of ccm_fast. Everything declarative is in pyproject.toml.

    ccm_fast/_native.*.so     pybind11 module: csrc/python/native.cpp and filters.cpp, codec and core. Needs no torch.
    ccm_fast/libccm.so        the same without Python: csrc/ccm.h.
    ccm_fast/_ops.torch.so    torch operators: csrc/torch/*.cpp and the core; loaded with torch.ops.load_library. It is
                              no Python module (hence the odd name, which `import` does not find) and is on torch's
                              stable ABI, so it fits every torch >= 2.10.
    ccm_fast/_rans.*.so       pybind11 module: csrc/python/*.cpp and the same core objects.

The core is what ccm_sources.py lists, which knows neither torch nor Python; with CUDA, _ops also holds
csrc/entropy/cuda, csrc/transforms/cuda, csrc/torch/*_cuda.cpp, and the CUDA runtime, linked statically. One build.ninja
is written for all of it, so that files compile in parallel, each with its own flags, and again only when they or their
headers have changed.

Environment switches
    CCM_CUDA=auto|0|1|native   CUDA kernels: where nvcc is found (from CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda),
                        never, insist on them, or as auto for the GPUs of this machine alone: none where none is. For
                        the others it does not matter whether a GPU is there. The result loads without a driver and in a
                        torch without CUDA too.
    TORCH_CUDA_ARCH_LIST  as in torch, "8.0 9.0+PTX": GPU architectures, 7.5 and newer (default: see ARCHITECTURES)
    CCM_TORCH=auto|0|1  torch operators: where torch is found, never, or insist on them
    CCM_TORCH=FOLDER    the torch package to build against, where it is not found by itself
    CCM_WERROR=0|1      treat warnings as errors; by default in place (developers), but not in wheels, which meet
                        compilers newer than the code
    CXX, CXXFLAGS, LDFLAGS, MAX_JOBS   as everywhere
"""

import hashlib
import json
import os
import platform
import re
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
from ccm_gpus import gpu_architectures  # noqa: E402
from ccm_sources import (  # noqa: E402
    CODEC_ROOMS,
    CODEC_WITHOUT,
    CSRC,
    ISA,
    core_sources,
    cuda_sources,
    isa_flags,
    isa_macros,
    isa_of,
    isas_of,
)

TORCH_TARGET = "0x020a000000000000"  # torch 2.10, the oldest that we load in
MAC, WINDOWS = sys.platform == "darwin", sys.platform == "win32"


def version():
    scope = {}
    exec((HERE / "ccm_fast/version.py").read_text(), scope)
    return scope["__version__"]


# What nvcc knows of these is built, with PTX of the newest for what comes after. Machine code also runs on later
# members of its family (8.7, 8.8, 10.3, 12.1).
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
OLDEST_ARCHITECTURE = 75  # the first with int8 tensor cores


class NoCudaError(Exception):
    """Why there can be no CUDA kernels, as a sentence."""


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


class Cuda:
    """The CUDA toolkit: nvcc, its version, folders, and the architectures to build for."""

    def __init__(self, compiler):
        self.nvcc = self.find_nvcc()
        self.version = (re.findall(r"release (\d+\.\d+)", output_of([self.nvcc, "--version"])) or ["unknown"])[0]
        self.ccbin = ["-ccbin", compiler[0]] if len(compiler) == 1 else []
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.cu")
            probe.write_text("#include <tuple>\n__global__ void probe() { if constexpr (true) return; }\n")
            command = [self.nvcc, "-std=c++17", *self.ccbin, "-c", str(probe), "-o", str(probe.with_suffix(".o"))]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                why = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
                raise NoCudaError(
                    f"nvcc {self.version} ({self.nvcc}) does not compile C++17 with the compiler {' '.join(compiler)}:"
                    f" {why[0]} Set CXX to a compiler that it knows, or install a newer CUDA toolkit."
                )
            # nvcc on the PATH may be a script outside the toolkit; it says itself where its files are.
            top = re.search(r"^#\$ TOP=(.*)$", output_of([*command, "--dryrun"]), re.MULTILINE)
        if not top:
            raise NoCudaError(f"{self.nvcc} does not tell where its toolkit is (no TOP= in the output of --dryrun).")
        root = Path(top.group(1).strip().strip('"')).resolve()
        target = f"targets/{platform.machine().replace('aarch64', 'sbsa')}-linux"
        self.include = self.find(root, "cuda_runtime.h", [f"{target}/include", "include"])
        self.cudart = self.find(root, "libcudart_static.a", [f"{target}/lib", "lib64", "lib"])
        self.architectures = self.choose_architectures()

    @staticmethod
    def find_nvcc():
        folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
        for nvcc in [
            *(f and Path(f, "bin", "nvcc") for f in folders),
            shutil.which("nvcc"),
            "/usr/local/cuda/bin/nvcc",
        ]:
            if nvcc and Path(nvcc).is_file():
                return str(nvcc)
        raise NoCudaError("nvcc was not found: install the CUDA toolkit, or set CUDA_HOME to its folder.")

    @staticmethod
    def find(root, name, folders):
        for folder in folders:
            if (root / folder / name).is_file():
                return root / folder / name
        raise NoCudaError(f"{root} has no {name}: install all of the CUDA toolkit, or set CUDA_HOME to another one.")

    def choose_architectures(self):
        """The numbers to build machine code for and, with "+PTX", the portable form too."""
        known = {int(n) for n in re.findall(r"sm_(\d+)", output_of([self.nvcc, "--list-gpu-code"]))}
        wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").replace(",", " ").split()
        chosen = []
        for name in wanted or ARCHITECTURES:
            match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
            if not match:
                sys.exit(
                    f'ccm_fast: TORCH_CUDA_ARCH_LIST: "{name}" is no architecture; expected some like "8.0 9.0+PTX".'
                )
            number = int(match[1] + match[2])
            if number < OLDEST_ARCHITECTURE or number not in known:
                if wanted:
                    why = "needs 7.5" if number < OLDEST_ARCHITECTURE else f"unknown to nvcc {self.version}"
                    print(f"ccm_fast: leaving out the architecture {name}: {why}")
                continue
            chosen.append(f"{number}{match[3]}{match[4] or ''}")
        if not chosen:
            raise NoCudaError(
                f"of the architectures {' '.join(wanted or ARCHITECTURES)}, nvcc {self.version} builds none."
            )
        if not wanted:
            chosen[-1] += "+PTX"
        return chosen

    def gencode(self):
        flags = []
        for name in self.architectures:
            number, _, portable = name.partition("+")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if portable:
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags

    def flags(self, werror):
        host = "-fPIC,-fvisibility=hidden,-Wall"
        # ptxas tells registers and spills (-v): kept beside the objects, for tests/test_cuda_code.py.
        return [
            "-std=c++17",
            "-O3",
            *self.ccbin,
            *self.gencode(),
            "-Xptxas=-v",
            f"-Xcompiler={host}",
            *(["-Werror=all-warnings"] if werror else []),
            "-Xfatbin=-compress-all",
        ]


def find_cuda(compiler):
    """The CUDA toolkit, or None; decided by CCM_CUDA."""
    mode = os.environ.get("CCM_CUDA", "auto")
    if mode not in ("auto", "0", "1", "native"):
        sys.exit(f"CCM_CUDA={mode}: expected auto, 0, 1 or native.")
    if mode == "0" or not cuda_sources("*_cuda.cu"):
        return None
    if mode == "native" and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        here = gpu_architectures()
        if not here:
            print("ccm_fast: building without CUDA kernels: no GPU here (CCM_CUDA=auto builds them for all)")
            return None
        os.environ["TORCH_CUDA_ARCH_LIST"] = " ".join(here)
    try:
        return Cuda(compiler)
    except NoCudaError as why:
        if mode == "1":
            sys.exit(f"ccm_fast: CCM_CUDA=1, but {why}")
        print(f"ccm_fast: building without CUDA kernels: {why}")
        return None


def find_compiler():
    wanted = os.environ.get("CXX")
    # On Windows the one that makes what Microsoft's linker and Python take, and knows GCC's vector types.
    for name in [wanted] if wanted else ["clang++"] if WINDOWS else ["c++", "g++", "clang++"]:
        command = shlex.split(name, posix=not WINDOWS)
        if command and shutil.which(command[0]):
            return command
    what = f"CXX={wanted} was not found" if wanted else "no C++ compiler was found"
    how = "Clang, with Visual Studio's build tools" if WINDOWS else "one with C++17 (Debian, Ubuntu: `apt install g++`)"
    sys.exit(f"ccm_fast: {what}: install {how}, or set CXX.")


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
    if not hasattr(os, "sysconf"):
        return cores
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():  # counts caches as free, as one should
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, free // 10**9))


def quoted(words):
    """Words as a ninja variable: quoted for the shell (Windows: for the program itself), `$` escaped for ninja."""
    join = subprocess.list2cmdline if WINDOWS else shlex.join
    return join(list(map(str, words))).replace("$", "$$")


def path(p):
    """A path in a ninja build line."""
    return str(p).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class Ninja:
    """The text of a build.ninja: rules first, then one build line per object and library."""

    def __init__(self, compiler, cuda):
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
        if cuda:
            self.lines += [
                f"nvcc = {quoted([cuda.nvcc])}",
                "rule nvcc",
                "  command = $nvcc -MD -MF $out.d $flags -c $in -o $out >$out.log 2>&1 || { cat $out.log; exit 1; }",
                "  depfile = $out.d",
                "  deps = gcc",
                "  description = $flavour $in",
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
        if name.endswith("libccm"):
            return os.path.join(*name.split(".")) + (".dll" if WINDOWS else ".so")
        return super().get_ext_filename(name)

    def build_extensions(self):
        torch, compiler = self.torch, find_compiler()
        cuda = find_cuda(compiler) if torch else None
        if cuda:
            print(f"ccm_fast: CUDA kernels with nvcc {cuda.version} for {' '.join(cuda.architectures)} (some minutes)")
        # Not self.build_temp: an editable install makes that afresh each time. One folder per Python, torch and mode,
        # so that virtual environments which share this tree do not throw away each other's objects.
        flags = os.environ.get("CXXFLAGS", "") + os.environ.get("LDFLAGS", "")  # sanitizers, for instance
        key = hashlib.sha256(f"{torch and torch.root} {self.werror}{flags}".encode()).hexdigest()[:8]
        folder = HERE / "build" / f"native-{sys.implementation.cache_tag}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        products = self.write_ninja(folder, torch, compiler, cuda)
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
        self.torch = None if WINDOWS else find_torch()
        if not self.torch:
            self.extensions = [ext for ext in self.extensions if not ext.name.endswith("_ops")]
        # setuptools clears self.inplace while it builds and copies the extensions afterwards; remember what was asked.
        self.developing = bool(self.inplace or getattr(self, "editable_mode", False))
        self.werror = os.environ.get("CCM_WERROR", "1" if self.developing else "0") != "0"
        super().run()
        if self.developing:
            shutil.copyfile(Path(self.build_lib, "ccm_fast", "_build_info.json"), HERE / "ccm_fast/_build_info.json")

    def write_ninja(self, folder, torch, compiler, cuda):
        native = [CSRC / "python/native.cpp", CSRC / "python/filters.cpp"]
        python = [source for source in sorted((CSRC / "python").glob("*.cpp")) if source not in native]

        possible = isas_of(platform.machine())
        available = [suffix for suffix in possible if compiles(compiler, ISA[suffix][1])]
        common = ["-std=c++17", "-O3", "-g0"]
        if not WINDOWS:
            common += ["-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-pthread"]
        common += [
            "-Wall",
            "-Wextra",
            *(["-Werror"] if self.werror else []),
            *isa_macros(available),
            f"-I{CSRC}",
        ]
        extra = shlex.split(os.environ.get("CXXFLAGS", ""))

        ninja = Ninja(compiler, cuda)

        def compile_all(sources, flavour, flags):
            objects = []
            for source in sources:
                if isa_of(source) and isa_of(source) not in available:
                    if isa_of(source) in possible:
                        name = source.relative_to(HERE)
                        print(f"ccm_fast: leaving out {name}: the compiler does not know its flags")
                    continue
                target = folder / source.relative_to(CSRC).with_suffix(".o")
                own = isa_flags(source)
                ninja.build(target, "cxx", [source], [*common, *flags, *own, *extra], flavour=flavour)
                objects.append(target)
            return objects

        identity = compiler_version(compiler)
        own_flags = [f'-DCCM_VERSION="{version()}"', f'-DCCM_COMPILER="{identity.replace(" ", "_")}"']
        python_flags = [*own_flags, "-isystem", pybind11_include()]
        for include in self.include_dirs:  # Python's own, from distutils
            python_flags += ["-isystem", include]

        core = compile_all(core_sources(), "core", [])
        python_objects = compile_all(python, "python", python_flags)
        codec_core = [o for o in core if o.relative_to(folder).parts[0] not in CODEC_WITHOUT]
        codec = [*compile_all(core_sources(CODEC_ROOMS), "codec", own_flags), *codec_core]
        native_objects = compile_all(native, "python", python_flags)

        shared = ["-shared", *([] if WINDOWS else ["-pthread"]), *shlex.split(os.environ.get("LDFLAGS", ""))]
        # On Windows pyconfig.h names Python's library, and it lies in `libs`.
        needed = ["-undefined", "dynamic_lookup"] if MAC else [f"-L{Path(sys.base_prefix, 'libs')}"] if WINDOWS else []
        link_python = [*shared, *needed]
        names = {"_ops": "_ops.torch.so", "_rans": "_rans.so", "_native": "_native.so", "libccm": "libccm.so"}
        products = {f"ccm_fast.{name}": folder / file for name, file in names.items()}
        if torch:
            objects, link_ops = self.torch_objects(folder, torch, cuda, ninja, compile_all, own_flags)
            ninja.build(products["ccm_fast._ops"], "link", [*objects, *core], [*shared, *link_ops])
        ninja.build(products["ccm_fast._rans"], "link", [*python_objects, *core], link_python)
        ninja.build(products["ccm_fast._native"], "link", [*native_objects, *codec], link_python)
        # It stays in memory when a program closes it: workers of its pool of threads may be asleep in it.
        alone = shared if MAC or WINDOWS else [*shared, "-Wl,-z,defs", "-Wl,-z,nodelete"]
        ninja.build(products["ccm_fast.libccm"], "link", codec, alone)
        ninja.write(folder / "build.ninja")

        self.info = {
            "version": version(),
            "torch": torch.version if torch else None,
            "torch_minimum": "2.10",
            "python": platform.python_version(),
            "machine": platform.machine(),
            "compiler": identity,
            "isa": [s.lstrip("_") for s in available],
            "cuda": {"version": cuda.version, "architectures": cuda.architectures} if cuda else None,
        }
        return products

    def torch_objects(self, folder, torch, cuda, ninja, compile_all, own_flags):
        """Objects of the torch operators, with CUDA kernels where there are any, and what they are linked with."""
        flags = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f'-DCCM_TORCH_VERSION="{torch.version}"', *own_flags]
        for include in torch.include_dirs:
            flags += ["-isystem", include]
        sources = sorted((CSRC / "torch").glob("*.cpp"))
        # No run path to torch: whoever loads this has imported torch, and its libraries are then found by their name.
        link = [f"-L{torch.library_dir}", "-ltorch_cpu", "-ltorch"]
        if not MAC:
            link = ["-Wl,-z,defs", "-Wl,--no-as-needed", *link]
        if not cuda:
            return compile_all([source for source in sources if not source.stem.endswith("_cuda")], "ops", flags), link
        include = ["-isystem", str(cuda.include.parent)]
        objects = compile_all(sources, "ops", [*flags, "-DCCM_WITH_CUDA", *include])
        for source in cuda_sources("*_cuda.cu"):
            target = folder / source.relative_to(CSRC).with_suffix(".cu.o")
            ninja.build(target, "nvcc", [source], [*cuda.flags(self.werror), f"-I{CSRC}"], flavour="cuda")
            objects.append(target)
        objects += compile_all(cuda_sources("*.cpp"), "cuda", include)
        return objects, [*link, str(cuda.cudart), "-Wl,--exclude-libs,ALL", "-ldl", "-lrt"]


setup(
    # The sources are listed in build_extensions(); MANIFEST.in puts them into the source distribution.
    ext_modules=[Extension(f"ccm_fast.{name}", []) for name in ("_ops", "_rans", "_native", "libccm")],
    cmdclass={"build_ext": Build},
)
