"""What nvcc made of the kernels, for every architecture, without a GPU: what ptxas says, what cuobjdump shows.

    python tests/emu/machine_code.py [FOLDER]   a table, and what breaks a rule; FOLDER holds *_cuda.cu.o and their .log

By default the folder of the last build. Rules: no spills, no local memory; registers and static shared memory within
BUDGET; tensor-core products where they are expected; no floating point; no non-coherent loads.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent


class Budget(NamedTuple):
    registers: int  # of a thread: 65,536 / registers threads fit a multiprocessor
    shared: int  # static, in bytes; 48 KB at most
    products: bool  # tensor cores do the arithmetic
    floats: tuple[str, ...] = ()  # instructions on floating-point numbers that are meant


# Registers: 168 is what blocks of 384 threads leave each thread; the rest is what the kernels need today and a little.
BUDGET = {
    "latents_kernel": Budget(168, 1024, True),
    "hyper_kernel": Budget(168, 1024, True),
    "base_kernel": Budget(168, 1024, True),
    "decode_z_kernel": Budget(128, 29 * 1024, False),
    "encode_kernel": Budget(128, 16 * 1024, False),
    "restore_kernel": Budget(32, 0, False, ("I2F", "I2FP", "FADD")),  # behind the integer path: what symbols stand for
    # Behind the integer path, too; MUFU is in divisions of integers. 64 registers leave four blocks a multiprocessor.
    "picture_filter_kernel": Budget(
        64, 24 * 1024, False, ("FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "F2I", "I2F", "I2FP", "MUFU")
    ),
    "prepare_kernel": Budget(64, 1024, False),
    "prepare_hyper_kernel": Budget(64, 1024, False),
    "status_kernel": Budget(64, 1024, False),
}

WIDE = {"latents_kernel": (100, 255)}  # from an architecture on, where blocks have 256 threads: so many

# Arithmetic and conversions; FSEL selects, and constants are moved by HFMA2 with two operands RZ: both round nothing.
FLOAT = re.compile(
    r"(FADD|FMUL|FFMA|FMNMX|FSET|FSETP|FCHK|FSWZADD|HADD2|HMUL2|HFMA2|HSET2|HSETP2|HMNMX2|HMMA|MUFU|RRO"
    r"|F2I|F2F|F2FP|F2IP|I2F|I2FP|FRND|D(ADD|MUL|FMA|SETP|MMA)|QGMMA|HGMMA|UF(ADD|MUL|FMA|SETP|SET|MNMX)|UF2I|UI2F)(\.|$)"
)
MOVES_A_CONSTANT = re.compile(r"HFMA2[.A-Z0-9_]* R\d+, -RZ, RZ, ")


class Resources(NamedTuple):
    registers: int
    shared: int
    stack: int
    spills: int


def kernel_name(mangled):
    """`latents_kernel` of `_ZN3ccm14latents_kernelENS_11LatentsArgsE`, with what is behind for templates."""
    found = re.search(r"\d+([a-z_]+_kernel)(?:I((?:L[a-z]\w*?E)+)E)?", mangled)
    return found[1] + (f"<{found[2]}>" if found[2] else "") if found else mangled


def resources(log):
    """{(kernel, arch): Resources} of what `ptxas -v` printed."""
    pattern = re.compile(
        r"Compiling entry function '(\S+)' for 'sm_(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
        re.DOTALL,
    )
    found = {}
    for name, arch, stack, stores, loads, registers, rest in pattern.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        used = Resources(int(registers), int(shared[1]) if shared else 0, int(stack), int(stores) + int(loads))
        found[kernel_name(name), arch] = used
    return found


def tool():
    """cuobjdump (of the toolkit, or of the package nvidia-cuda-cuobjdump), or None. It wants nvdisasm beside it."""
    try:
        import nvidia

        folders = [p for root in nvidia.__path__ for p in sorted(Path(root).glob("*/bin"))]
    except ImportError:
        folders = []
    for name in [shutil.which("cuobjdump"), *(p / "cuobjdump" for p in folders)]:
        if name and Path(name).is_file() and (Path(name).parent / "nvdisasm").is_file():
            return Path(name)
    return None


@functools.cache
def instructions(file):
    """{(kernel, arch): [instruction]} of an object file; predicates, addresses and encodings left out."""
    cuobjdump = tool()
    env = {**os.environ, "PATH": f"{cuobjdump.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(cuobjdump), "--dump-sass", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    found, code, arch = {}, None, ""
    for line in text.splitlines():
        if match := re.match(r"\s*code for sm_(\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            code = found.setdefault((kernel_name(match[1]), arch), [])
        elif code is not None and (match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*)", line)):
            code.append(match[1].strip())
    return found


def opcode(instruction):
    return instruction.split()[0]


def faults(kernel, used, code, arch="0"):
    """What breaks a rule, as sentences. `code` may be None: only resources are judged then."""
    found = []
    name = kernel.partition("<")[0]
    budget = BUDGET.get(name)
    if budget is None:
        return [f"{kernel} has no line in BUDGET"]
    if name in WIDE and int(re.match(r"\d+", arch)[0]) >= WIDE[name][0]:
        budget = budget._replace(registers=WIDE[name][1])
    if used.spills or used.stack:
        found.append(f"{used.spills} bytes of spills, {used.stack} of stack")
    if used.registers > budget.registers:
        found.append(f"{used.registers} registers, the budget is {budget.registers}")
    if used.shared > budget.shared:
        found.append(f"{used.shared} bytes of static shared memory, the budget is {budget.shared}")
    if code is None:
        return found
    names = Counter(opcode(i) for i in code)
    local = [n for n in names if re.match(r"(LDL|STL)(\.|$)", n)]
    if local:
        found.append(f"local memory: {', '.join(local)}")
    if budget.products != any(n.startswith("IMMA") for n in names):
        found.append("no tensor-core product" if budget.products else "a tensor-core product")
    floats = Counter(opcode(i) for i in code if FLOAT.match(opcode(i)) and not MOVES_A_CONSTANT.match(i))
    floats = {name: n for name, n in floats.items() if name.partition(".")[0] not in budget.floats}
    if floats:
        found.append(f"floating point: {', '.join(f'{n} {k}' for k, n in floats.items())}")
    constant = [n for n in names if n.startswith("LDG") and "CONSTANT" in n]
    if constant:
        found.append(f"non-coherent loads: {', '.join(constant)}")
    return found


def build_folder():
    """Where the last build left its objects, those of CUDA in folders of it, or None."""
    logs = sorted(ROOT.glob("build/native-*/entropy/cuda/latents_cuda.cu.o.log"), key=lambda p: p.stat().st_mtime)
    return logs[-1].parents[2] if logs else None


def survey(folder):
    """[(kernel, arch, Resources, instructions or None)] of all kernels in a folder and below it."""
    rows = []
    for log in sorted(Path(folder).rglob("*_cuda.cu.o.log")):
        used = resources(log.read_text())
        code = instructions(log.with_suffix("")) if tool() else {}
        rows += [(kernel, arch, r, code.get((kernel, arch))) for (kernel, arch), r in used.items()]
    return rows


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else build_folder()
    if not folder:
        sys.exit("no CUDA objects in build/: run `CCM_CUDA=1 python setup.py build_ext --inplace`")
    bad = 0
    print(f"{'kernel':24} {'sm':>5} {'regs':>5} {'shared':>7} {'spills':>7} {'code':>6} {'IMMA':>5}  broken rules")
    for kernel, arch, used, code in sorted(survey(folder), key=lambda r: (r[0], len(r[1]), r[1])):
        broken = faults(kernel, used, code, arch)
        bad += bool(broken)
        products = sum(opcode(i).startswith("IMMA") for i in code or [])
        size = len(code) if code else "?"
        line = f"{kernel:24} {arch:>5} {used.registers:5} {used.shared:7} {used.spills:7} {size:>6} {products:5}"
        print(f"{line}  {'; '.join(broken)}")
    if not tool():
        print("instructions were not looked at: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
