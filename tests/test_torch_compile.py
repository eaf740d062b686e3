"""Calls of the library inside of what torch.compile traces run as they are, after a break of the graph."""

import subprocess
import sys

import pytest
import tiny
import torch

import ccm_fast

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")


@pytest.fixture(autouse=True)
def fresh():
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_compress_and_decompress():
    model, x = ccm_fast.load(WEIGHTS), torch.rand(1, 3, 48, 32)
    coded = ccm_fast.compress(ccm_fast.load(WEIGHTS), x)  # the first calls of `model` itself are compiled ones

    @torch.compile(backend="eager")
    def both(x):
        found = ccm_fast.compress(model, x * 1)
        return found, ccm_fast.decompress(model, **found)["x_hat"] + 1

    found, y = both(x)
    assert found == coded
    assert torch.equal(y - 1, ccm_fast.decompress(model, **coded)["x_hat"] + 1 - 1)
    with pytest.raises(ValueError, match="quality"):
        torch.compile(lambda x: ccm_fast.compress(model, x, quality=9), backend="eager")(x)


def test_files_and_models():
    path = tiny.GOLDEN / "colour.ccm"
    model = torch.compile(lambda: ccm_fast.load(WEIGHTS), backend="eager")()
    image = torch.compile(lambda: ccm_fast.decode_file(path, model=model), backend="eager")()
    assert image == ccm_fast.decode_file(path, model=ccm_fast.load(WEIGHTS))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
def test_compiled_models():
    x = torch.rand(1, 3, 48, 32)
    plain = ccm_fast.load(WEIGHTS)
    coded = ccm_fast.compress(plain, x)
    compiled, parts = torch.compile(plain, backend="eager"), ccm_fast.load(WEIGHTS)
    parts.g_s = torch.compile(parts.g_s, backend="eager")
    for model in (compiled, parts):
        assert ccm_fast.compress(model, x) == coded
        assert torch.equal(ccm_fast.decompress(model, **coded)["x_hat"], ccm_fast.decompress(plain, **coded)["x_hat"])


@pytest.mark.slow
def test_importing_does_not_import_the_compiler():
    program = "import sys, ccm_fast; ccm_fast.compress, ccm_fast.load, ccm_fast.freeze, ccm_fast.encode_file\n"
    program += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
