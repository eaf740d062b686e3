"""The build and what users meet when it went wrong: import cost, error messages, what the source distribution holds."""

import importlib
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from weak_symbols import weak_functions

import ccm_fast
from ccm_fast import _backend, environment, errors

ROOT = Path(__file__).resolve().parent.parent
in_checkout = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")


def run_python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **kwargs).stdout


# --- import ---------------------------------------------------------------------------------------------------------


def test_import_is_light():
    """After torch, `import ccm_fast` adds under 50 ms of processor time (best of three) and no fourth module."""
    code = (
        "import sys, time, torch; before = set(sys.modules); t = time.thread_time(); import ccm_fast;"
        "print(time.thread_time() - t, *sorted(set(sys.modules) - before))"
    )
    best = 1.0
    for _ in range(3):
        seconds, *modules = run_python(code, cwd=ROOT).split()
        assert modules == ["ccm_fast", "ccm_fast.lazy", "ccm_fast.version"]
        best = min(best, float(seconds))
        if best < 0.05:
            return
    pytest.fail(f"import ccm_fast took {best * 1000:.0f} ms")


def test_import_does_not_need_torch():
    assert run_python("import sys, ccm_fast; print('torch' in sys.modules)", cwd=ROOT).strip() == "False"


def test_exports_resolve():
    for name in ccm_fast._EXPORTS:
        assert getattr(ccm_fast, name).__name__ == name
    assert set(ccm_fast.__all__) <= set(dir(ccm_fast))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ccm_fast.no_such_name


def test_error_families():
    assert issubclass(errors.BuildError, ImportError)
    for name in ("TruncatedError", "DamagedError", "WrongModelError", "UnsupportedVersionError", "LimitError"):
        assert issubclass(getattr(errors, name), errors.BitstreamError)
    assert issubclass(errors.BitstreamError, ValueError)
    assert issubclass(errors.BitstreamError, errors.CcmFastError)


# --- the native libraries -------------------------------------------------------------------------------------------


def test_native_libraries_load():
    native = _backend.load()
    assert native is _backend.load()
    assert native.rans.version() == ccm_fast.__version__
    assert f"torch={_backend.build_info()['torch']}" in native.ops.build_info()
    assert importlib.import_module("ccm_fast._rans") is native.rans


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A package folder without libraries; returns the folder and an uncached `load`."""
    monkeypatch.setattr(_backend, "_FOLDER", tmp_path)
    return tmp_path, _backend.load.__wrapped__


def test_missing_library_names_file_versions_and_remedy(broken):
    folder, load = broken
    with pytest.raises(errors.BuildError) as caught:
        load()
    message = str(caught.value)
    assert str(folder / "_ops.torch.so") in message
    assert torch.__version__ in message
    assert "pip install --force-reinstall" in message
    assert "\n" not in message


@in_checkout
def test_missing_rans_in_a_checkout(broken, monkeypatch):
    folder, _ = broken
    package = folder / "ccm_fast"
    package.mkdir()
    (folder / "setup.py").touch()
    monkeypatch.setattr(_backend, "_FOLDER", package)
    (package / "_build_info.json").write_text(json.dumps({"torch": "2.12.0", "python": "3.10.1"}))
    with pytest.raises(errors.BuildError) as caught:
        _backend.load_rans.__wrapped__()
    message = str(caught.value)
    assert str(package / "_rans.") in message
    assert "built against torch 2.12.0 with Python 3.10.1" in message
    assert f"cd {folder} && " in message
    assert "pip install -e ." in message


def test_unloadable_library(broken):
    folder, load = broken
    (folder / "_ops.torch.so").write_bytes(b"not a library")
    _backend.rans_path().touch()
    with pytest.raises(errors.BuildError, match="does not load") as caught:
        load()
    assert isinstance(caught.value.__cause__, OSError)


def test_old_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(errors.BuildError, match=r"needs torch >= 2\.10, and torch 2\.9\.1\+cpu .*pip install"):
        _backend.load.__wrapped__()


@in_checkout
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (binutils)")
def test_special_instruction_sets_stay_in_their_files():
    sources = {source.stem for source in (ROOT / "csrc").rglob("*.cpp")}  # builds keep objects of files that are gone
    count, weak = weak_functions([o for o in ROOT.glob("build/native-*/**/*.o") if o.stem in sources])
    if not count:
        pytest.skip("no such kernel has been built here")
    assert not weak


# --- build and distribution -----------------------------------------------------------------------------------------


@in_checkout
@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("base", "format|model|entropy|transforms|container|codec|training|search|compat|python|torch"),
        ("format", "model|entropy|transforms|container|codec|training|search|compat|python|torch"),
        ("model", "entropy|transforms|container|codec|training|search|compat|python|torch"),
        ("container", "entropy|transforms|codec|training|search|compat|python|torch"),
        ("entropy/cpu", "entropy/cuda|transforms|container|codec|training|search|compat|python|torch"),
        ("entropy/cuda", "entropy/cpu|transforms|container|codec|training|search|compat|python|torch"),
        ("transforms", "entropy|container|codec|training|search|compat|python|torch"),
        # What nvcc or the emulator make of a kernel is in one file.
        (
            "transforms/cuda",
            r"entropy/(?!cuda/device\.h)\w+|transforms(?!/cuda)|container|codec|training|search|compat|python|torch",
        ),
        ("codec", "entropy/cuda|training|search|compat|python|torch"),
        ("training", "entropy|container|codec|search|compat|python|torch"),
        ("search", "model|entropy|transforms|container|codec|training|compat|python|torch"),
        ("compat", "model|entropy|transforms|container|codec|training|search|python|torch"),
    ],
)
def test_a_room_includes_nothing_of_those_above_it(room, others):
    pattern = re.compile(rf'#include ["<]({others})/.*')
    sources = [path for path in (ROOT / "csrc" / room).iterdir() if path.suffix in (".cpp", ".h", ".cu", ".cuh")]
    assert sources
    assert not {path.name: found.group() for path in sources if (found := pattern.search(path.read_text()))}


@in_checkout
def test_build_finds_or_asks_for_torch(monkeypatch, tmp_path, capsys):
    pytest.importorskip("setuptools")
    monkeypatch.syspath_prepend(str(ROOT / "_build_backend"))
    build = importlib.import_module("ccm_build")
    monkeypatch.delenv("CCM_TORCH", raising=False)
    assert build.find_torch().version == torch.__version__
    monkeypatch.setenv("CCM_TORCH", "0")
    assert build.find_torch() is None

    monkeypatch.setattr(build, "_candidates", lambda: [str(tmp_path)])
    monkeypatch.delenv("CCM_TORCH")
    assert build.find_torch() is None
    assert "building without what needs torch" in capsys.readouterr().out
    monkeypatch.setenv("CCM_TORCH", "1")
    with pytest.raises(SystemExit, match=r"there is none here: run `.* -m pip install 'torch>=2\.10'`"):
        build.get_requires_for_build_wheel()

    header = tmp_path / "torch/include/torch/csrc/stable/library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch/version.py").write_text("__version__ = '2.9.1'\n")
    with pytest.raises(SystemExit, match=r"only torch 2\.9\.1 here"):
        build.find_torch()

    (tmp_path / "torch/version.py").write_text("__version__ = '3.0.0a1+cpu'\n")
    assert build.find_torch().root == tmp_path / "torch"


@in_checkout
def test_build_finds_the_environment_that_uv_installs_into(monkeypatch, tmp_path):
    pytest.importorskip("setuptools")
    monkeypatch.syspath_prepend(str(ROOT / "_build_backend"))
    build = importlib.import_module("ccm_build")

    def process(pid, parent, command, cwd, **variables):
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1")
        (folder / "cmdline").write_bytes("\0".join(command).encode() + b"\0")
        (folder / "environ").write_bytes("\0".join(f"{k}={v}" for k, v in variables.items()).encode())
        (folder / "cwd").symlink_to(cwd)

    process(os.getpid(), 11, ["python"], tmp_path)
    process(11, 12, ["python", "-c", "build"], tmp_path, VIRTUAL_ENV="/hidden")
    process(12, 13, ["/usr/bin/uv", "pip", "install", "--python=env/bin/python", "."], tmp_path, VIRTUAL_ENV="/mine")
    process(13, 1, ["sh"], tmp_path, VIRTUAL_ENV="/other")
    found = list(build._uv_environments(tmp_path / "proc"))
    assert found == [tmp_path / "env", "/mine", tmp_path / ".venv"]
    assert list(build._uv_environments(tmp_path / "nothing")) == []


@in_checkout
def test_no_extra_replaces_torch():
    """CompressAI and torchvision ask for a certain torch; pip would bring it in the place of the one that is there."""
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for lines in extras.values() for line in lines}
    assert "torch" in names and not names & {"compressai", "torchvision", "torchaudio", "lpips"}
    assert [line for lines in extras.values() for line in lines if line.startswith("torch>")] == ["torch>=2.10"]


def test_requirements_of_extras():
    """Environments of the Makefile get their libraries by it."""
    script = ROOT / "_build_backend/ccm_requirements.py"
    done = subprocess.run([sys.executable, script, "train", "recipes"], capture_output=True, text=True, check=True)
    names = [re.split(r"[^A-Za-z0-9_-]", line)[0] for line in done.stdout.splitlines()]
    assert {"numpy", "pillow", "torch", "safetensors", "pytorch-msssim", "zarr", "pyarrow"} <= {*names}
    assert "ccm-fast" not in names and len(names) == len({*names})
    assert subprocess.run([sys.executable, script, "no-such"], capture_output=True).returncode


@in_checkout
def test_pip_takes_the_options_that_a_wheel_is_made_with():
    """It refuses `--no-compile` there, which the other targets install with."""
    alone = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    said = subprocess.run(["make", "-n", "wheel"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    (options,) = re.findall(r"-m pip wheel (.*) -w build/wheel \.$", said.stdout, re.M)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options.split(), "--help"], capture_output=True, check=True)


@in_checkout
def test_what_one_target_leaves_out_another_runs():
    """`make test` leaves the marker `sanitized` to a target that CI runs beside it."""
    recipe = (ROOT / "Makefile").read_text()
    (left_out,) = re.findall(r'^LEFT_OUT = -m "not (\w+)"$', recipe, re.M)
    assert recipe.partition("\ntest-sanitized: ")[2].partition("\n\n")[0].endswith(f" -m {left_out}")
    run = ROOT / ".ci/run"
    assert not run.exists() or re.search(r"^make test test-sanitized ", run.read_text(), re.M)


@pytest.mark.slow
@in_checkout
def test_sdist_is_complete(tmp_path):
    command = [sys.executable, "-W", "ignore", "setup.py", "-q"]
    command += ["egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path), "--formats=gztar"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "Makefile"}
    patterns = ["csrc/**/*.cpp", "csrc/**/*.h", "csrc/**/*.cu", "csrc/**/*.cuh", "ccm_fast/**/*.py", "tests/**/*.py"]
    patterns += [
        "_build_backend/*.py",
        "ccm_fast/weights_data/*.safetensors",
        "tests/golden/*",
        "tests/*.json",
        "tests/constraints.txt",
    ]
    for pattern in patterns:
        wanted |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob(pattern) if p.is_file()}
    assert not wanted - held
    assert not [name for name in held if name.endswith((".so", ".pyc", "_build_info.json"))]


# --- what is built, and what tests run with ----------------------------------------------------------------------


class Driver:
    """CUDA's driver library, of a machine with these GPUs."""

    def __init__(self, *capabilities):
        self.capabilities = capabilities

    def cuInit(self, flags):
        return 0 if self.capabilities else 100  # CUDA_ERROR_NO_DEVICE

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.capabilities)
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capabilities[device][attribute - 75]
        return 0


@in_checkout
def test_kernels_for_this_machine_alone(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "_build_backend"))
    gpus = importlib.import_module("ccm_gpus")
    assert gpus.gpu_architectures("no such library") == []
    monkeypatch.setattr(sys, "argv", ["setup.py", "--version"])
    find_cuda = runpy.run_path(str(ROOT / "setup.py"))["find_cuda"]
    monkeypatch.setitem(find_cuda.__globals__, "Cuda", lambda compiler: os.environ.get("TORCH_CUDA_ARCH_LIST"))
    monkeypatch.setenv("CCM_CUDA", "native")
    for named in ("", "8.0"):
        for capabilities, expected in (((), None), (((9, 0), (8, 6), (9, 0)), "8.6 9.0")):
            monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", named)
            monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name, c=capabilities: Driver(*c))
            assert find_cuda(["c++"]) == (named or expected)
    assert "no GPU here" in capsys.readouterr().out
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setenv("CCM_CUDA", "auto")
    assert find_cuda(["c++"]) is None  # all: the driver is not asked


def pinned():
    """Names in the constraints file."""
    lines = (ROOT / "tests/constraints.txt").read_text().splitlines()
    return {line.partition("==")[0].strip().lower() for line in lines if line and not line.startswith("#")}


def required(name, extras):
    """Normalized names of what a distribution needs here, itself included, without what only torch needs."""
    from packaging.requirements import Requirement

    found, left = set(), [(name, frozenset(extras))]
    while left:
        name, extras = left.pop()
        for line in importlib.metadata.requires(name) or ():
            r = Requirement(line)
            if r.marker and not any(r.marker.evaluate({"extra": e}) for e in (extras or {""})):
                continue
            other = r.name.lower().replace("_", "-")
            if other not in found and other not in ("torch", "ccm-fast"):
                found.add(other)
                left.append((other, frozenset(r.extras)))
    return found


@in_checkout
def test_tests_run_with_pinned_libraries():
    needed = required("ccm-fast", ["build", "test", "lint", "eval", "docs", "recipes"])
    assert {"pytest", "iniconfig", "numpy", "ruff"} <= needed
    assert not needed - pinned()


# --- bug reports ----------------------------------------------------------------------------------------------------


def test_collect_env(monkeypatch):
    env = environment.collect()
    assert torch.__version__ in env["torch"]
    assert env["native"].startswith("loaded")
    assert not [value for value in env.values() if "unknown (" in value and sys.platform == "linux"]
    assert all(name in environment.format_env(env) for name in env)

    def fail():
        raise OSError("gone")

    monkeypatch.setitem(environment._PROBES, "cpu", fail)
    assert environment.collect()["cpu"] == "unknown (OSError: gone)"
