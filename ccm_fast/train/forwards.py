"""Other ways to compute a model's layers, for as long as a step of training lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

__all__ = ["wrapped"]


@contextmanager
def wrapped(layers: Iterable[tuple[nn.Module, Callable[..., Tensor]]]) -> Iterator[None]:
    """Inside, ``layer(x)`` is ``function(inner, x)``, where ``inner`` is what the layer's ``forward`` was before.

    Contexts of this kind can be nested, the inner one around the outer one's functions; not shared by threads.

    Args:
        layers: each with its function.
    """
    before = []
    try:
        for layer, function in layers:
            before.append((layer, layer.__dict__.get("forward")))
            layer.forward = partial(function, layer.forward)
        yield
    finally:
        for layer, forward in reversed(before):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward
