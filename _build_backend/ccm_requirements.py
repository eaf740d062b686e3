"""Prints what the package and some of its extras require, a line each, for `pip install -r`.

    python _build_backend/ccm_requirements.py test lint

Environments get their libraries so, while the package is still compiling.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """Requirements of the package with these extras, and with those that they name in turn.

    Raises:
        KeyError: There is no such extra.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    found, left, own = list(project["dependencies"]), list(extras), re.compile(project["name"] + r"\[(.*)\]")
    while left:
        for line in project["optional-dependencies"][left.pop(0)]:
            named = own.fullmatch(line)
            if named:
                left += named[1].split(",")
            elif line not in found:
                found.append(line)
    return found


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
