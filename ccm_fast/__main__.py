"""``python -m ccm_fast``: the command line."""

import os
import sys

# `python -m` puts the current folder first on the path, so that a torch.py among someone's pictures would be run. It
# goes, unless this package itself is there.
if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", os.getcwd()):
    here = sys.path.pop(0) or os.getcwd()
    if os.path.samefile(here, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
        sys.path.insert(0, here)

from ccm_fast.command.process import console

console()
