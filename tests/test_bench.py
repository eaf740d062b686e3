"""``ccm-fast bench``: that the benchmarks run, check what they time, and say what they leave out. Not how fast."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ccm_fast
from ccm_fast.bench import coders, kernels, material, timing
from ccm_fast.bench.run import BENCHMARKS
from ccm_fast.command.main import main

sys.path.append(str(Path(__file__).resolve().parent / "emu"))
import build as emulator


def test_interleaved_takes_turns():
    calls = []
    times = timing.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1, cold=True
    )
    assert calls == ["a", "b"] * 4
    assert [len(t["seconds"]) for t in times.values()] == [3, 3]
    assert timing.statistics_of([1.0, 2.0, 3.0, 4.0, 5.0])["median"] == 3


def test_table_aligns():
    text = timing.table([["name", "value"], ["a", 1.5], ["long name", None], ["b", 1234]])
    assert text.splitlines() == ["name       value", "a           1.50", "long name", "b           1234"]


@pytest.mark.parametrize(("name", "bits"), [("photo", 0.92), ("uniform", 4.56)])
def test_data(name, bits):
    data = coders.make_data(name, 30_000)
    assert 8 * data.ideal_bytes / len(data.rows) == pytest.approx(bits, rel=0.04)
    again = coders.make_data(name, 30_000)
    assert np.array_equal(data.symbols, again.symbols) and np.array_equal(data.rows, again.rows)


def test_missing_and_wrong_peers_are_said(monkeypatch):
    data = coders.make_data("photo", 500)

    def missing(_):
        raise ImportError("No module named 'peer'")

    def wrong(d):
        return [coders.Coder("liar", 1, lambda: None, lambda: d.symbols + 1, len(d.symbols))]

    monkeypatch.setattr(coders, "PEERS", {"peer": missing, "liar": wrong})
    said = []
    found = coders.coders(data, said.append)
    assert [c.name for c in found] == [f"ccm_fast, {n} lanes" for n in (1, 2, 4, 8, 16, 32)]
    assert said == [
        "peer: skipped (ImportError: No module named 'peer')",
        "liar: skipped (it does not decode what it encoded)",
    ]


def test_a_wrong_result_is_no_timing(monkeypatch):
    with pytest.raises(RuntimeError, match="wrong result"):
        kernels._same(torch.zeros(2), torch.ones(2), "x")
    data = coders.make_data("photo", 500)
    bad = coders.Coder("ccm_fast, 1 lanes", 1, lambda: None, lambda: data.symbols * 0 + 9, 500)
    monkeypatch.setattr(coders, "ours", lambda _: [bad])
    monkeypatch.setattr(coders, "PEERS", {})
    with pytest.raises(RuntimeError, match="decodes wrongly"):
        coders.coders(data)


@pytest.mark.slow
def test_operators_of_a_gpu():
    """What `ccm-fast bench kernels --device cuda` times, on the emulator's operators: it failed on the first GPU."""
    torch.ops.load_library(str(emulator.build_ops()))
    ops, cpu = torch.ops.ccm_fast_emu, torch.device("cpu")

    def packed(frozen):
        return ops.pack_plan_cuda(torch.frombuffer(bytearray(frozen.to_bytes()), dtype=torch.uint8))

    cases = kernels._operators(cpu, 1, 48, 32, ops, packed)
    assert {"decode_z", "hyper", "parameters", "encode_z", "encode_y"} < {c.name for c in cases}

    class Wrong:
        def __getattr__(self, name):
            return getattr(ops, name)

        def encode_settled(self, *arguments):
            data, segments, y_hat = ops.encode_settled(*arguments)
            return data ^ 1, segments, y_hat

    with pytest.raises(RuntimeError, match="encode_y 48x32: wrong result"):
        kernels._operators(cpu, 1, 48, 32, Wrong(), packed)


def test_picture():
    x = material.picture(50, 30)
    assert x.shape == (1, 3, 30, 50) and 0 <= x.min() < x.max() <= 1
    assert torch.equal(x, material.picture(50, 30))
    assert material.picture(1, 1).shape == (1, 3, 1, 1)


@pytest.mark.slow
def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(coders, "PEERS", {})  # what else is installed is not this test's business
    assert main(["bench", "--quick", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in BENCHMARKS:
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["environment"]
        assert f"{name}.json" in out
    channels = ccm_fast.load("ccm-small").config.latent_channels
    assert result["cases"][0]["latents"] == 3 * 4 * channels and result["cases"][0]["peak_bytes"] > 2**20
    assert main(["bench", "nonsense"]) == 2
    assert "dropin, coders, kernels, scaling" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["bench", "kernels", "--device", "cuda", "--out", str(tmp_path)]) == 1
        assert "needs an NVIDIA GPU" in capsys.readouterr().err
