"""What a user's type checker sees: signatures, not Any."""

import ast
from pathlib import Path

import pytest

import ccm_fast

ROOT = Path(ccm_fast.__file__).parents[1]
USER = """
from pathlib import Path

import numpy as np
import torch

import ccm_fast

codec = ccm_fast.Codec.load("ccm-small")
data = codec.encode(np.zeros((8, 8, 3), np.uint8), quality=4)
reveal_type(data)
reveal_type(codec.decode([data]))
reveal_type(ccm_fast.load("ccm-small"))
reveal_type(ccm_fast.encode_file(Path("a.png"), "a.ccm"))
reveal_type(ccm_fast.CrossChannelContextModel().analysis(torch.zeros(1, 3, 16, 16), torch.ones(1)))
codec.encode("a.png")
ccm_fast.decode_file("a.ccm", depth="deep")
"""


def test_type_checkers_see_every_public_name():
    source = ast.parse(Path(ccm_fast.__file__).read_text())
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    found = {(name.name, node.module) for node in block.body for name in node.names}
    assert found == set(ccm_fast._EXPORTS.items())


@pytest.mark.slow
def test_a_user_sees_signatures(tmp_path, monkeypatch):
    """With the settings of `make lint`, and so with its cache: without one, mypy reads torch for 20 s."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    file = tmp_path / "user.py"
    file.write_text(USER)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    out, err, _ = api.run(["--strict", "--follow-imports=silent", str(file)])
    assert not err
    lines = out.splitlines()
    revealed = [line.partition("Revealed type is ")[2].strip('"') for line in lines if "Revealed" in line]
    assert revealed[0].removeprefix("builtins.") == "bytes"
    assert "list[" in revealed[1] and "ndarray" in revealed[1]
    assert revealed[2] == "ccm_fast.models.ccm.CrossChannelContextModel"
    assert "dict[" in revealed[3]
    assert "Tensor" in revealed[4]
    errors = [line for line in lines if ": error:" in line]
    assert len(errors) == 2 and '"encode"' in errors[0] and '"decode_file"' in errors[1], out
