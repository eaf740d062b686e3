"""Builds programs on the codec without torch and Python, with any compiler: for other machines too.

    python _build_backend/ccm_program.py --out build/arm64 --cxx aarch64-linux-gnu-g++ examples/decode.c

makes FOLDER/decode, linked statically, of the sources that ccm_sources.py lists. Instruction sets of the compiler's
machine are compiled as far as it knows them. Needs nothing but Python and the compiler.
"""

import argparse
import concurrent.futures
import os
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ccm_sources import CSRC, ISA, codec_sources, isa_flags, isa_macros, isas_of

FLAGS = ["-O3", "-g0", "-Wall", "-Wextra", "-Wno-psabi", f"-I{CSRC}", '-DCCM_VERSION="program"']
STANDARD = {".c": ["-x", "c", "-std=c99"], ".cpp": ["-std=c++17"]}


def machine_of(cxx):
    """The processor that a compiler compiles for, "aarch64"."""
    out = subprocess.run([*cxx, "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    return out.split("-")[0].strip()


def understands(cxx, flags):
    command = [*cxx, "-Werror", *flags, "-x", "c++", "-c", "-", "-o", os.devnull]
    return subprocess.run(command, input="int probe;\n", text=True, capture_output=True).returncode == 0


def build(cxx, out, programs, isas=None, extra=("-pthread",), link=("-pthread", "-static"), suffix="", jobs=None):
    """Compiles and links; paths of the programs.

    Args:
        cxx: The compiler, a list of words.
        out: Folder for objects and programs; made if it is not there.
        programs: Sources with a main(), .c or .cpp.
        isas: Suffixes in ISA to compile; None: those of the compiler's machine that it knows.
        extra: Further flags of every compilation.
        link: Flags of the linker.
        suffix: Of the programs' names.
        jobs: Compilers at once; None: one for each core.

    Raises:
        subprocess.CalledProcessError: The compiler failed; its messages have gone to stderr.
    """
    if isas is None:
        isas = [suffix for suffix in isas_of(machine_of(cxx)) if understands(cxx, ISA[suffix][1])]
    out.mkdir(parents=True, exist_ok=True)
    common = [*FLAGS, *isa_macros(isas), *extra]
    sources = codec_sources(isas)

    def compile_one(source):
        target = out / ("_".join(source.relative_to(CSRC).parts) if CSRC in source.parents else source.name)
        target = target.with_name(target.name + ".o")
        command = [*cxx, *STANDARD[source.suffix], *common, *isa_flags(source), "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return str(target)

    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [*sources, *programs]))
    core, mains = objects[: len(sources)], objects[len(sources) :]
    found = []
    for program, main in zip(programs, mains):
        found.append(out / (program.stem + suffix))
        subprocess.run([*cxx, main, *core, *link, "-o", str(found[-1])], check=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+", type=lambda name: Path(name).resolve(), metavar="PROGRAM.c")
    parser.add_argument("--cxx", default=os.environ.get("CXX", "c++"), help="the compiler (default: CXX, or c++)")
    parser.add_argument("--out", required=True, type=Path, help="folder for objects and programs")
    parser.add_argument("--plain", action="store_true", help="portable kernels alone")
    args = parser.parse_args()
    for program in build(shlex.split(args.cxx), args.out, args.programs, () if args.plain else None):
        print(program)


if __name__ == "__main__":
    main()
