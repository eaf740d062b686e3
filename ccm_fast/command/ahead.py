"""What a command does beside its imports: packing a model's weights takes as long as importing NumPy and Pillow."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

__all__ = ["open_model_ahead"]


# Container, sides, quality and fingerprint are among them (FORMAT.md, sections 5 and 6).
_HEAD = 64


def open_model_ahead(model: str | None, path: str | None = None) -> None:
    """Open a model in a thread of its own.

    Args:
        model: a shipped model's name or a weights file; None: the one that a file is probably of, or the default one.
        path: that file, if it is one that can be read twice.
    """

    def work() -> None:
        with suppress(Exception):  # the command meets it, too, and says so
            from ccm_fast.registry import open_ahead

            head = b""
            if model is None and path is not None and os.path.isfile(path):
                with open(path, "rb") as file:
                    head = file.read(_HEAD)
            open_ahead(model, head)

    threading.Thread(target=work, name="ccm-fast-open").start()  # the interpreter waits for it when it ends
