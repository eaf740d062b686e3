"""What a command does beside its imports: packing a model's weights takes as long as importing NumPy and Pillow."""

from __future__ import annotations

import threading
from contextlib import suppress

__all__ = ["open_model_ahead"]


def open_model_ahead(model: str | None) -> None:
    """Open a model in a thread of its own.

    Args:
        model: a shipped model's name or a weights file; None: the only one that ships.
    """

    def work() -> None:
        with suppress(Exception):  # the command meets it, too, and says so
            from ccm_fast.registry import open_ahead

            open_ahead(model)

    threading.Thread(target=work, name="ccm-fast-open").start()  # the interpreter waits for it when it ends
