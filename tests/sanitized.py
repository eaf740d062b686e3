"""The core in C++ and the programs in tests/cpp that check it, compiled with sanitizers into build/sanitized-core."""

import functools

import ccm_sources
from ninja_build import ROOT, Rules

FLAVOURS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
CHECKS = ("engine", "threads", "transform", "winograd_int", "decode")
ISAS = ("_avx2", "_avxvnni", "_fma") if ccm_sources.X86 else ()
# Threads help each other in every step, not in long ones alone. The VNNI kernels have their one instruction emulated:
# layout and bias of byte planes are then tested everywhere.
DEFINES = ["-DCCM_SHARE_ALL", '-DCCM_VERSION="test"', *(["-DCCM_EMULATE_VNNI"] if ISAS else [])]
FLAGS = ["-std=c++17", "-Og", "-g1", "-pthread", f"-I{ROOT / 'csrc'}", *DEFINES, *ccm_sources.isa_macros(ISAS)]


@functools.cache
def _rules():
    rules = Rules()
    for flavour, sanitizer in FLAVOURS.items():

        def compiled(sources, flavour=flavour, sanitizer=sanitizer):
            for source in sources:
                own = [flag for flag in ccm_sources.isa_flags(source) if flag != "-mavxvnni"]
                yield rules.compile(f"{flavour}/{source.stem}.o", source, [*FLAGS, *own, *sanitizer])

        core = [*compiled(ccm_sources.core_sources(isas=ISAS))]
        codec = [*compiled(ccm_sources.codec_sources(ISAS))]
        for name in CHECKS:
            objects = codec if name == "decode" else core
            source = ROOT / f"tests/cpp/{name}_check.cpp"
            check = rules.compile(f"{flavour}/{name}_check.o", source, [*FLAGS, *sanitizer])
            wrap = ["-Wl,--wrap=_ZN3ccm11avx2_roundsEi"] if name == "engine" and ISAS else []
            rules.link(f"{flavour}/{name}_check", [check, *objects], ["-pthread", *sanitizer, *wrap])
    return rules


def program(name, flavour):
    """The path of a program of tests/cpp, "engine" for engine_check.cpp, with a sanitizer of FLAVOURS."""
    return _rules().make("sanitized-core", f"{flavour}/{name}_check")
