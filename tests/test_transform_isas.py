"""The transforms' kernels of every instruction set that this machine has and does not choose by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccm_fast import _backend

pytestmark = pytest.mark.slow

OPS = _backend.load().ops
FILES = "test_transforms.py", "test_int16.py", "test_train_convolutions.py"
OTHERS = [isa for isa in OPS.isa_list().split(",") if isa not in ("", "avx512amx", OPS.transform_isa())]


@pytest.mark.parametrize("isa", OTHERS)
def test_every_instruction_set(isa):
    """The tests of layers, gradients and sums once more, in a process that CCM_FAST_ISA limits."""
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}, "CCM_FAST_ISA": isa}
    wanted = "test_layers or test_gdn or test_int16_sums or test_convolution_and_gradients or test_residual_block"
    arguments = ["-q", "-p", "no:cacheprovider", "-k", wanted, *FILES]
    code = "import sys, pytest; from ccm_fast import _backend; print(_backend.load().ops.transform_isa());"
    code += f"sys.exit(pytest.main({arguments!r}))"
    command = [sys.executable, "-W", "ignore:Module already imported so cannot be rewritten", "-c", code]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.startswith(f"{isa}\n") and " passed" in done.stdout
