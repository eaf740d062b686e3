"""The command as a process of its own: what a call of :func:`.main.main` within another program must not do.

Taking the interpreter down takes a decoding's process a tenth of its time, and brings nothing.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from .garbage import pause_collection

__all__ = ["console"]


def console() -> NoReturn:
    """Run the command line, and end the process with its exit code."""
    pause_collection()
    from .main import main

    _end(main())


def _end(code: int) -> NoReturn:
    """End as the interpreter does, threads and functions of :mod:`atexit` included, but take nothing down."""
    import atexit
    import threading

    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # those that have been run are forgotten
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # the interpreter says what was lost
    os._exit(code)
