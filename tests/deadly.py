"""What test_convert.py runs in processes of its own, which import neither torch nor the tests."""

import os
import signal
from pathlib import Path


def convert_unit(unit, source, target, recoder, column):
    """In the place of that of ccm_fast.convert.units: some files kill the process that reads them, always or once."""
    content, note = Path(source, unit.name).read_bytes(), Path(target, unit.name)
    if content == b"deadly" or (content == b"once" and not note.exists()):
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"source": unit.name, "target": unit.target}
