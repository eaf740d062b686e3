"""What is imported at its first use: public names of packages (PEP 562), and NumPy.

Commands take a tenth of a second, most of it imports. Decoding a picture and writing it needs no NumPy, whose import
takes 60 to 80 ms; modules on that way take ``np`` from here, and whoever touches an array imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["exports", "np"]


class _Module:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name)
        setattr(self, name, value)  # the next access does not come here
        return value


if TYPE_CHECKING:
    import numpy as np
else:
    np = _Module("numpy")


def exports(
    package: dict[str, Any], names: Mapping[str, str], load: Callable[[str, str], ModuleType] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, which import its public names when they are asked for.

    Args:
        package: its ``globals()``, where a name stays once it is imported.
        names: public name -> module that defines it.
        load: imports a module, given its name and what it is wanted for; None: as ``import`` does.
    """
    title = package["__name__"]

    def find(name: str) -> Any:
        try:
            module = names[name]
        except KeyError:
            raise AttributeError(f"module {title!r} has no attribute {name!r}") from None
        loaded = importlib.import_module(module) if load is None else load(module, f"{title}.{name}")
        package[name] = value = getattr(loaded, name)
        return value

    return find, lambda: sorted({*package, *names})
