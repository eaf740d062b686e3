"""Builds the web page that shows .ccm files, into a folder that any web server can serve as it is.

    python _build_backend/ccm_viewer.py --out build/viewer

The codec is compiled by Emscripten to ccm.wasm, with vectors (SIMD128) and one thread; docs/viewer has the page. The
weights of models are copied beside it, weights/FINGERPRINT.safetensors: a file names its model's fingerprint.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import ccm_program
from ccm_sources import CSRC

ROOT = CSRC.parent
# Exceptions of WebAssembly itself: C++'s become status codes at ccm.h.
FLAGS = ["-fwasm-exceptions", "-msimd128"]
LINK = [*FLAGS, "-O3", "-sSTANDALONE_WASM", "--no-entry", "-sALLOW_MEMORY_GROWTH=1", "-sINITIAL_MEMORY=67108864"]


def fingerprint(weights):
    """Of the model in a weights file, 16 hexadecimal digits (FORMAT.md, section 7): of its tensor "plan"."""
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + size])["plan"]["data_offsets"]
    return hashlib.sha256(data[8 + size + begin : 8 + size + end]).hexdigest()[:16]


def build(out, weights, emcc="emcc", jobs=None):
    """Makes the folder. Raises subprocess.CalledProcessError where the compiler fails."""
    # Debian's Emscripten runs a JavaScript library that a foreign node does not look for where Debian has it.
    os.environ.setdefault("NODE_PATH", "/usr/share/nodejs")
    objects = ROOT / "build/wasm"
    (program,) = ccm_program.build(
        [emcc], objects, [CSRC / "wasm/viewer.cpp"], extra=FLAGS, link=LINK, suffix=".wasm", jobs=jobs
    )
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(program, out / "ccm.wasm")
    for page in sorted((ROOT / "docs/viewer").iterdir()):
        shutil.copyfile(page, out / page.name)
    (out / "weights").mkdir(exist_ok=True)
    for file in weights:
        shutil.copyfile(file, out / "weights" / f"{fingerprint(file)}.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/viewer")
    shipped = sorted((ROOT / "ccm_fast/weights_data").glob("*.safetensors"))
    parser.add_argument("--weights", type=Path, nargs="+", default=shipped, help="default: the models that ship")
    args = parser.parse_args()
    build(args.out, args.weights)
    print(f"{args.out}: ccm.wasm {(args.out / 'ccm.wasm').stat().st_size} bytes")


if __name__ == "__main__":
    main()
