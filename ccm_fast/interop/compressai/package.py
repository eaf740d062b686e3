"""CompressAI where pip installed it without its dependencies: its modules for data sets and point clouds stay unused.

With them come torchvision (and with it another torch), torch_geometric and pandas, some 200 MB that no net of images
runs. What is installed is left alone; what is not is stood in for by empty modules, for this process.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings

__all__ = ["compressai"]


class _Anything:
    """Stands for a base class, a decorator or a function of a package that is not there."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, x):
        return x


class _Absent(types.ModuleType):
    """A package that CompressAI imports and these benchmarks never use."""

    __all__ = ()

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)  # others look for it

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


_UNUSED = {
    "torchvision": ("transforms",),
    "torch_geometric": ("data", "data.datapipes", "transforms"),
    "pandas": (),
    "requests": (),
    "einops": (),
}


@functools.cache
def _stand_in() -> None:
    for package, parts in _UNUSED.items():
        if package in sys.modules or importlib.util.find_spec(package) is not None:
            continue
        for name in (package, *(f"{package}.{part}" for part in parts)):
            module = sys.modules[name] = _Absent(name)
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], last, module)


def compressai(module: str) -> types.ModuleType:
    """The module ``compressai.MODULE``, "models" for example.

    Raises:
        ImportError: CompressAI is not installed, or does not import.
    """
    if importlib.util.find_spec("compressai") is None:
        raise ImportError("compressai is not installed: pip install --no-deps compressai")
    _stand_in()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return importlib.import_module(f"compressai.{module}")
