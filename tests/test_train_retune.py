"""Retuning: transforms learn for another error, and the integers of the entropy model are kept."""

import pytest
import torch
from test_train import config, folder  # noqa: F401

import ccm_fast
from ccm_fast.command.main import main
from ccm_fast.errors import ModelError
from ccm_fast.train.loop import train
from ccm_fast.train.ship import load_checkpoint, ship


def test_retuned_weights_keep_their_integers(tmp_path, folder):  # noqa: F811
    """Transforms and h_a learn for another error; the file has the entropy model of the one that was started from."""
    first = train(config(tmp_path / "a", folder, stages="joint=2"), progress=False)
    kept, out = tmp_path / "kept.safetensors", tmp_path / "out.safetensors"
    ship(first, kept, [str(folder)], progress=False, steps=0)
    options = {"stages": "retune=3", "init": str(kept), "lr": 1e-3}
    last = train(config(tmp_path / "b", folder, **options), progress=False)
    before, after = ccm_fast.load(kept), load_checkpoint(last)[0].state_dict()
    changed = {n.split(".")[0] for n, p in before.state_dict().items() if not torch.equal(p, after[n])}
    assert changed == {"g_a", "g_s", "h_a", "log_gain", "log_inverse_gain"}
    assert main(["freeze", str(last), str(out), "--data", str(folder), "--keep", str(kept), "--quiet"]) == 0
    retuned, plans = ccm_fast.load(out), [read_plan_layers(path) for path in (kept, out)]
    assert plans[0] == plans[1]
    assert not torch.equal(retuned.log_gain, before.log_gain)
    with pytest.raises(ModelError, match="another one"):
        ship(first, out, [str(folder)], progress=False, kept=other_weights(tmp_path, folder))


def read_plan_layers(path):
    """The weights of all layers of a file's plan."""
    plan = ccm_fast.load(path).frozen.plan
    groups = [layer for g in plan.groups for layer in (g.hyper, *g.stack, *g.hidden, g.head)]
    return [(layer.weight.tobytes(), layer.bias.tobytes()) for layer in (*plan.hyper_synthesis, *groups)]


def other_weights(tmp_path, folder):  # noqa: F811
    """A weights file with another entropy model."""
    last = train(config(tmp_path / "c", folder, stages="joint=1", seed=5), progress=False)
    ship(last, tmp_path / "other.safetensors", [str(folder)], progress=False, steps=0)
    return tmp_path / "other.safetensors"
