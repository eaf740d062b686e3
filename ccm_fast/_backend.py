"""Loads the native libraries, each once, at the first call that needs it.

Layer rule: the rest of the package reaches native code only through `native()`, the codec without torch,
`load_rans()`, the rANS module without torch, and `load()`, the torch operators and the rANS module. They raise
`BuildError` with the command that mends it. Nothing here runs at import.
"""

import functools
import importlib
import importlib.util
import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ccm_fast.errors import BuildError

TORCH_MINIMUM = (2, 10)  # the oldest stable ABI that csrc/torch/ops.cpp is compiled for
TORCH_REMEDY = f"`{sys.executable or 'python'} -m pip install 'torch>=2.10'`, then build ccm_fast again."
OPS_NAME = "_ops.torch.so"
_FOLDER = Path(__file__).resolve().parent


class Native(NamedTuple):
    """The native half of the package."""

    ops: Any  # torch.ops.ccm_fast
    rans: Any  # the module ccm_fast._rans


def build_info() -> dict:
    """What setup.py noted down about the build; empty where nothing has been built."""
    import json  # not needed by what decodes

    try:
        return json.loads((_FOLDER / "_build_info.json").read_text())
    except (OSError, ValueError):
        return {}


def has_cuda() -> bool:
    """Whether the native library holds CUDA kernels; says nothing about a GPU."""
    return bool(build_info().get("cuda"))


def has_torch() -> bool:
    """Whether this build has operators for torch, and torch is installed."""
    if not build_info().get("torch"):
        return False
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError:
        return False
    return True


def rans_path() -> Path:
    """Where this Python expects the rANS module."""
    for suffix in EXTENSION_SUFFIXES:
        if (_FOLDER / f"_rans{suffix}").is_file():
            return _FOLDER / f"_rans{suffix}"
    return _FOLDER / f"_rans{EXTENSION_SUFFIXES[0]}"


def _remedy() -> str:
    root, python = _FOLDER.parent, sys.executable or "python"
    if (root / "setup.py").is_file():
        return f"Build it: `cd {root} && {python} -m pip install -e .`"
    return f"Build it again: `{python} -m pip install --force-reinstall --no-deps .` in the source folder of ccm_fast."


def _versions() -> str:
    built, torch = build_info(), sys.modules.get("torch")
    against = f"built against torch {built['torch']}" if built.get("torch") else "built without torch"
    by = f"{against} with Python {built['python']}" if built else "no record of a build"
    running = f"torch {torch.__version__}, " if torch is not None else ""
    return f"({by}; running {running}Python {sys.version.split()[0]})"


def _missing(file: Path) -> BuildError:
    return BuildError(f"ccm_fast's native library {file} is missing {_versions()}. {_remedy()}")


def _unfit(file: Path, why: Exception) -> BuildError:
    return BuildError(f"ccm_fast's native library {file} does not load {_versions()}: {why}. {_remedy()}")


def import_with_torch(module: str, what: str) -> ModuleType:
    """Import a module that imports torch, for ``what``, which the message names where torch is not installed.

    Raises:
        BuildError: torch is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as why:
        if why.name != "torch":
            raise
        raise BuildError(f"{what} needs torch, which is not installed: {TORCH_REMEDY}") from why


@functools.cache
def native() -> ModuleType:
    """Returns the codec without torch, the module ``ccm_fast._native``; it is loaded at the first call.

    Raises:
        BuildError: the library is missing, or does not fit this Python.
    """
    try:
        return importlib.import_module("ccm_fast._native")
    except ImportError as why:
        raise BuildError(f"ccm_fast's native library does not load: {why}. {_remedy()}") from why


@functools.cache
def load_rans() -> ModuleType:
    """Returns the rANS coder without torch, the module ``ccm_fast._rans``; it is loaded at the first call.

    Raises:
        BuildError: the library is missing, or does not fit this Python.
    """
    file = rans_path()
    if not file.is_file():
        raise _missing(file)
    try:
        spec = importlib.util.spec_from_file_location("ccm_fast._rans", file)
        rans = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(rans)
    except (ImportError, OSError) as why:
        raise _unfit(file, why) from why
    return sys.modules.setdefault("ccm_fast._rans", rans)


@functools.cache
def load() -> Native:
    """Returns the native libraries; they are loaded at the first call.

    Raises:
        BuildError: a library is missing, or does not fit the running torch or Python; torch is missing.
    """
    torch = import_with_torch("torch", "this part of ccm_fast")

    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < TORCH_MINIMUM:
        raise BuildError(
            f"ccm_fast needs torch >= 2.10, and torch {torch.__version__} is running:"
            f" `{sys.executable or 'python'} -m pip install 'torch>=2.10'`."
        )
    ops_file = _FOLDER / OPS_NAME
    if not ops_file.is_file():
        raise _missing(ops_file)
    try:
        torch.ops.load_library(str(ops_file))
        torch.ops.ccm_fast.build_info()
        from ccm_fast._fakes import register

        register()
    except (OSError, RuntimeError, AttributeError) as why:
        raise _unfit(ops_file, why) from why
    return Native(torch.ops.ccm_fast, load_rans())
