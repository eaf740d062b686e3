"""``ccm-fast profile``: stages, groups, traces; what it says where there is no GPU."""

import itertools
import json

import pytest
import tiny
import torch
from PIL import Image

from ccm_fast.bench import stages
from ccm_fast.bench.timing import DeviceError, device_for
from ccm_fast.command import profile as profiler
from ccm_fast.command.main import main

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
STAGES = ["parse", "z", "h_s", "entropy", "g_s", "pixels", "total"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(tiny.photo(40, 56, 1)).save(path)
    return path


def test_stages_and_groups(photo, tmp_path):
    ccm = tmp_path / "photo.ccm"
    assert main(["encode", str(photo), str(ccm), "-m", WEIGHTS]) == 0
    result = profiler.profile([ccm, photo], WEIGHTS, threads=1, repeats=4, warmup=1)
    for file in result["files"]:
        assert list(file["stages"]) == STAGES
        assert (file["width"], file["height"], file["latents"]) == (56, 40, 3 * 4 * 9)
        assert all(len(s["seconds"]) == 4 and min(s["seconds"]) > 0 for s in file["stages"].values())
        for k in range(4):
            total = file["stages"]["total"]["seconds"][k]
            assert total == pytest.approx(sum(file["stages"][s]["seconds"][k] for s in STAGES[:-1]))
        assert len(file["groups"]) == 3
    text = profiler.report(result)
    assert text.count("entropy") == text.count("total") == 2 and "group 2" in text
    result["files"][0]["groups"][1]["best"] = -0.00219  # a group's time is a difference, and may drown in noise
    assert "-2.19" not in profiler.report(result)
    assert not profiler.profile([ccm], WEIGHTS, threads=2, repeats=1)["files"][0]["groups"]


def test_command_line(photo, tmp_path, capsys):
    trace, figures = tmp_path / "trace.json", tmp_path / "figures.json"
    command = ["profile", str(photo), "-m", WEIGHTS, "--repeats", "2", "-t", "1"]
    assert main([*command, "--trace", str(trace), "--json", str(figures)]) == 0
    out, err = capsys.readouterr()
    assert "median ms" in out and err == ""
    result = json.loads(figures.read_text())
    assert result["environment"] and result["files"][0]["stages"]["total"]["median"] > 0
    # What the trace format demands of complete events, and that stages neither overlap nor run backwards.
    events = json.loads(trace.read_text())["traceEvents"]
    complete = [e for e in events if e["ph"] == "X"]
    assert {e["name"] for e in events if e["ph"] == "M"} == {"process_name", "thread_name"}
    assert {e["name"] for e in complete} == set(STAGES) - {"total"}
    assert {e["args"]["repeat"] for e in complete} == {0, 1}
    for e in complete:
        assert e["dur"] > 0 and e["ts"] >= 0 and e["pid"] == e["tid"] == 1 and e["cat"]
    for a, b in itertools.pairwise(complete):
        assert b["ts"] >= a["ts"] + a["dur"] - 1
    assert main([*command, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["repeats"] == 2


def test_damaged_and_missing_files(photo, tmp_path, capsys):
    ccm = tmp_path / "photo.ccm"
    assert main(["encode", str(photo), str(ccm), "-m", WEIGHTS]) == 0
    ccm.write_bytes(ccm.read_bytes()[:-3])
    for bad in (ccm, tmp_path / "none.ccm"):
        assert main(["profile", str(bad), "-m", WEIGHTS]) == 1
        assert capsys.readouterr().err.startswith("ccm-fast: ")
    with pytest.raises(ValueError, match="repeats"):
        profiler.profile([photo], WEIGHTS, repeats=0)


def test_the_callers_model_stays_where_it_is(photo):
    model = tiny.model()
    for given in (model, WEIGHTS):  # models by name are shared between calls
        for _ in range(2):
            decoder = stages.Decoder(str(photo), given, torch.device("meta"), 1, None)
            assert {p.device.type for p in decoder.model.parameters()} == {"meta"}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert stages.Decoder(str(photo), model, torch.device("cpu"), 1, None).model is model


def test_devices(photo):
    with pytest.raises(DeviceError, match="unknown"):
        device_for("tpu")
    with pytest.raises(DeviceError, match="--device cuda"):
        profiler.profile([photo], WEIGHTS, graph=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said(photo, capsys):
    assert main(["profile", str(photo), "-m", WEIGHTS, "--device", "cuda"]) == 1
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu(photo):
    result = profiler.profile([photo], WEIGHTS, device="cuda", repeats=2, graph=True)
    assert {"upload", "download"} < set(result["files"][0]["stages"])
    assert result["files"][0]["graph"]["median"] > 0
