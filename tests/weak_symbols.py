"""What objects of special instruction sets must not define: copies that a linker may keep for all files."""

import subprocess

import ccm_sources


def weak_functions(objects, nm="nm"):
    """Weak functions by object, of those objects whose file is compiled for an instruction set of its own.

    An inline function that one such file instantiates may be the copy that the linker keeps for all files; the whole
    library would then need that instruction set. Their helpers belong into an anonymous namespace, and they use no
    std:: containers.

    Returns:
        The number of such objects, and name -> lines of nm for those that define any.
    """
    special = [o for o in objects if ccm_sources.isa_of(o.with_suffix(""))]
    weak = {}
    for o in special:
        out = subprocess.run([nm, "-C", "--defined-only", o], capture_output=True, text=True, check=True).stdout
        found = [line for line in out.splitlines() if line.split(maxsplit=2)[1] == "W"]
        if found:
            weak[o.name] = found
    return len(special), weak
