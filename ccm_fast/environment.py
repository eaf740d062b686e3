"""The environment as text: for bug reports and result files.

Each probe is guarded: on a broken installation, which is when this is needed, the others still report.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys

# The instruction sets that change which integer kernels run, by the names of /proc/cpuinfo (x86, then Arm).
_ISA = """
    sse4_1 avx avx2 f16c fma avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_vbmi avx512_bf16
    amx_int8 amx_tile asimd asimddp i8mm sve sve2
"""


def _os():
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = platform.platform()
    return f"{name}, {platform.system()} {platform.release()}, {platform.machine()}"


def _cpuinfo(*keys):
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in keys:
                return value.strip()
    raise LookupError("not in /proc/cpuinfo")


def _cpu():
    try:
        return _cpuinfo("model name")
    except (OSError, LookupError):
        return platform.processor() or platform.machine()


def _isa():
    flags = set(_cpuinfo("flags", "Features").split())
    return " ".join(name for name in _ISA.split() if name in flags) or "none of interest"


def _cores():
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} usable of {os.cpu_count()}"


def _memory():
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _compiler():
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if not shutil.which(command[0]):
        return f"none ({command[0]} not found)"
    out = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10).stdout
    return out.splitlines()[0].strip()


def _torch():
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return f"{torch.__version__} ({cuda}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"


def _gpus():
    import torch

    if not torch.cuda.is_available():
        return "none"
    return "; ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _ccm_fast():
    from ccm_fast.version import __version__

    return __version__


def _build():
    from ccm_fast._backend import build_info

    info = build_info()
    if not info:
        return "no record"
    cuda = f"CUDA {info['cuda']}" if info["cuda"] else "no CUDA"
    torch = f"against torch {info['torch']}" if info["torch"] else "without torch"
    return f"{info['version']} {torch}, {info['compiler']}, {' '.join(info['isa'])}, {cuda}"


def _native():
    from ccm_fast._backend import has_torch, load, native
    from ccm_fast.errors import BuildError

    try:
        compiler = native().compiler()
        if has_torch():
            return f"loaded ({load().ops.build_info()})"
        return f"loaded (compiler={compiler}, without torch)"
    except BuildError as error:
        return f"NOT USABLE: {error}"


def _kernels():
    """Instruction sets of the entropy path that work here and passed their self-check, the one in use first."""
    from ccm_fast._backend import native

    return native().isa_list()


def _transforms():
    """What g_a, h_a and g_s multiply on this CPU, and with which instructions."""
    from ccm_fast._backend import native
    from ccm_fast.precision import transform_precision

    return f"{transform_precision()} ({native().transform_isa()})"


def _version_of(package):
    def probe():
        from importlib.metadata import version

        return version(package)

    return probe


_PROBES = {
    "ccm_fast": _ccm_fast,
    "native": _native,
    "build": _build,
    "kernels": _kernels,
    "transforms": _transforms,
    "torch": _torch,
    "gpu": _gpus,
    "python": lambda: f"{sys.version.split()[0]} ({platform.python_implementation()})",
    "numpy": _version_of("numpy"),
    "pillow": _version_of("pillow"),
    "safetensors": _version_of("safetensors"),
    "os": _os,
    "cpu": _cpu,
    "isa": _isa,
    "cores": _cores,
    "memory": _memory,
    "compiler": _compiler,
    "onednn_isa": lambda: os.environ.get("ONEDNN_MAX_CPU_ISA", "not limited"),
}


def collect() -> dict:
    """Returns the environment as {probe: text}, in the order in which it is best read."""
    env = {}
    for name, probe in _PROBES.items():
        try:
            env[name] = str(probe())
        except Exception as error:  # a probe that fails is itself worth reporting
            env[name] = f"unknown ({type(error).__name__}: {error})"
    return env


def format_env(env: dict | None = None) -> str:
    """Returns `env`, or what `collect` finds, as aligned text."""
    env = collect() if env is None else env
    width = max(map(len, env))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in env.items())
