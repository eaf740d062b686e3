"""An installed package decodes the golden files: their latents are those that golden.json names.

    python -I golden_files.py FOLDER

cibuildwheel and tests/machines/wheel.py run it with the package that they have installed.
"""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import ccm_fast
from ccm_fast import _native as native

folder = Path(sys.argv[1])
golden = json.loads((folder / "golden.json").read_text())
codec = native.Codec.open(str(folder / "tiny.safetensors"), threads=2, float_transforms=False, isa="")
names = [name for name, case in golden.items() if case.get("plan") != 3]  # that one is of another model
for name in names:
    ((_, latents, _),) = codec.decode([native.File((folder / f"{name}.ccm").read_bytes(), 0)], 2)
    if hashlib.sha256(latents.tobytes()).hexdigest() != golden[name]["sha256"]:
        sys.exit(f"{name}: other latents than the golden file's")
torch = importlib.util.find_spec("torch") is not None
print(json.dumps({"package": ccm_fast.__file__, "torch": torch, "files": len(names)}))
