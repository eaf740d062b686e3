"""Compiles layout.cpp with CUTLASS's headers, from the package nvidia-cutlass, and runs it."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from ninja_build import CXX

import build


def main():
    try:
        files = importlib.metadata.files("nvidia-cutlass")
    except importlib.metadata.PackageNotFoundError:
        sys.exit("layout: pip install --no-deps nvidia-cutlass==4.2.0.0")
    headers = next(f.locate() for f in files if f.as_posix().endswith("include/cute/tensor.hpp"))
    include = Path(headers).parent.parent
    folder = build.ROOT / "build/emu-layout"
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-w", f"-I{include}"]
    toolkit = Path("/usr/local/cuda/include")  # cuda_fp16.h and the C++ library
    flags += [f"-I{p}" for p in (toolkit, toolkit / "cccl") if p.is_dir()]
    program = folder / "layout"
    subprocess.run([*CXX, *flags, str(build.HERE / "layout.cpp"), "-o", str(program)], check=True)
    sys.exit(subprocess.run([str(program)]).returncode)


if __name__ == "__main__":
    main()
