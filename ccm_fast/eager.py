"""Calls that torch.compile leaves alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eager"]

_F = TypeVar("_F", bound=Callable)


def eager(function: _F) -> _F:
    """The function, which runs as it is where `torch.compile` traces its caller.

    There is nothing to gain in it: symbols are coded by native code, and the fast transforms are operators. The graph
    breaks before the call, so that `fullgraph=True` is an error of torch's. `torch.compiler.disable` as a decorator
    would import the compiler, which takes seconds, when the function is defined.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        # Once the compiler is there. Whether it is tracing does not tell: it also leaves out frames, and compiles what
        # they call.
        if "torch._dynamo" in sys.modules:
            return sys.modules["torch"].compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call
