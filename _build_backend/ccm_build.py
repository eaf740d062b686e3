"""The build's one question: against which torch, if any? Also the PEP 517 backend, which asks it before all else.

pip builds in an isolated environment that holds the build requirements and nothing else, so `import torch` fails there
even though the torch to build against is installed next door. Compiling needs no *running* torch, though, only its
headers and libtorch_cpu.so: so torch is looked up as a folder, in the environment that asked for the build, and is
never imported. The operators are on torch's stable ABI, so any torch >= 2.10 found this way will do. Where there is
none, the codec without torch is built alone.
"""

import importlib.machinery
import os
import re
import site
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

MINIMUM = (2, 10)
HELP = (
    "the operators are compiled against torch >= 2.10, and there is {what}: run `{python} -m pip install"
    " 'torch>=2.10'`, then repeat this command (or set CCM_TORCH to the folder of an installed torch package)."
)


class Torch(NamedTuple):
    """An installed torch: its package folder and version."""

    root: Path
    version: str

    @property
    def include_dirs(self):
        return [str(self.root / "include"), str(self.root / "include/torch/csrc/api/include")]

    @property
    def library_dir(self):
        return str(self.root / "lib")


def _site_folders(prefix):
    scheme = {"base": str(prefix), "platbase": str(prefix)}
    name = "nt" if os.name == "nt" else "posix_prefix"
    return [sysconfig.get_path(key, name, vars=scheme) for key in ("platlib", "purelib")]


def _uv_environments(proc=Path("/proc")):
    """Environments that a calling uv installs into: it hides them from the build, where VIRTUAL_ENV is the build's own.

    Args:
        proc: the proc file system; where there is none, nothing is found.
    """
    pid = os.getpid()
    for _ in range(16):
        try:
            status = (proc / str(pid) / "stat").read_text()
            pid = int(status.rpartition(")")[2].split()[1])  # the parent; names may hold blanks and parentheses
            words = [os.fsdecode(w) for w in (proc / str(pid) / "cmdline").read_bytes().split(b"\0")]
            if Path(words[0]).name not in ("uv", "uvx"):
                continue
            pairs = (v.partition(b"=") for v in (proc / str(pid) / "environ").read_bytes().split(b"\0"))
            variables = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
            folder = (proc / str(pid) / "cwd").resolve()
        except (OSError, ValueError, IndexError):
            return
        for k, word in enumerate(words):
            name, _, value = word.partition("=")
            if name in ("--python", "-p"):
                python = folder / (value or "".join(words[k + 1 : k + 2]))
                yield python if python.is_dir() else python.parent.parent
        yield from (variables[v] for v in ("VIRTUAL_ENV", "CONDA_PREFIX") if variables.get(v))
        yield folder / variables.get("UV_PROJECT_ENVIRONMENT", ".venv")


def _candidates():
    yield from sys.path
    # pip's isolation keeps sys.prefix and only takes these folders off sys.path.
    yield from (sysconfig.get_path("platlib"), sysconfig.get_path("purelib"))
    # Others (python -m build) make a virtual environment: the one they were called from may be active in the shell.
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if os.environ.get(variable):
            yield from _site_folders(os.environ[variable])
    for environment in _uv_environments():
        yield from _site_folders(environment)
    if sys.prefix == sys.base_prefix and not os.environ.get("VIRTUAL_ENV"):  # as pip: no user site in an environment
        yield site.getusersitepackages()


def find_torch():
    """Returns the Torch to build against, or None for a build without; decided by CCM_TORCH.

    Where that insists on one (1, or a folder) and there is none, the build ends with one sentence that says what to do.
    """
    wanted, old = os.environ.get("CCM_TORCH") or "auto", None
    if wanted == "0":
        return None
    insists = wanted != "auto"
    for folder in [*([wanted] if insists and wanted != "1" else []), *_candidates()]:
        if not folder:
            continue
        if (Path(folder) / "version.py").is_file() and Path(folder).name == "torch":
            root = Path(folder)  # CCM_TORCH
        else:
            spec = importlib.machinery.PathFinder.find_spec("torch", [str(folder)])
            if spec is None or not spec.origin:
                continue
            root = Path(spec.origin).parent
        try:
            text = (root / "version.py").read_text()
        except OSError:
            continue
        version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
        if not version or not (root / "include/torch/csrc/stable/library.h").is_file():
            continue
        torch = Torch(root.resolve(), version[1])
        if tuple(map(int, re.findall(r"\d+", torch.version)[:2])) >= MINIMUM:
            return torch
        old = old or torch
    # A build front end's own interpreter is gone when the reader sees this: do not name it.
    python = "python" if Path(sys.executable).is_relative_to(tempfile.gettempdir()) else sys.executable
    why = HELP.format(what=f"only torch {old.version} here" if old else "none here", python=python)
    if insists:
        sys.exit(f"ccm_fast: CCM_TORCH={wanted}, but {why}")
    print(f"ccm_fast: building without what needs torch: {why}")
    return None


# PEP 517: setuptools' backend, with the question asked first, so that its answer is not buried in a build log.
from setuptools import build_meta as _setuptools  # noqa: E402
from setuptools.build_meta import *  # noqa: E402, F403


def get_requires_for_build_wheel(config_settings=None):
    find_torch()
    return _setuptools.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings=None):
    find_torch()
    return _setuptools.get_requires_for_build_editable(config_settings)
