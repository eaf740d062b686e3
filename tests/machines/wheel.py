"""The newest wheel in dist/, in a clean environment without torch. `make test-wheel` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    wheels = sorted((ROOT / "dist").glob("ccm_fast-*manylinux*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        pytest.skip("no wheel in dist/: `make wheel`")
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, wheels[-1]], check=True, cwd=folder, env=own)
    return folder


def test_decodes(environment):
    command = [environment / "bin/python", "-I", ROOT / "tests/machines/golden_files.py", GOLDEN]
    done = subprocess.run(command, capture_output=True, text=True, cwd=environment, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["package"]).is_relative_to(environment) and not found["torch"]


def test_command(environment, tmp_path):
    command = [environment / "bin/ccm-fast", "decode", "-m", GOLDEN / "tiny.safetensors", GOLDEN / "colour.ccm"]
    subprocess.run([*command, tmp_path / "colour.png"], check=True, cwd=environment, env={"PATH": "/usr/bin:/bin"})
    assert (tmp_path / "colour.png").read_bytes().startswith(b"\x89PNG")
