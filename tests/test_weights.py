"""The frozen model's engines, and weights files."""

import copy
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialized

import ccm_fast
from ccm_fast import shipped, tensor_store, weights
from ccm_fast.entropy import FrozenEntropyModel, PlanError
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.errors import BitstreamError, DamagedError, ModelError, NotFrozenError, TruncatedError
from ccm_fast.interop.compressai import saved
from ccm_fast.models import CCMConfig, CrossChannelContextModel


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(21)
    frozen = FrozenEntropyModel(random_plan(rng, (4, 3), schedule="checkerboard"))
    pairs = [sample_latents(rng, frozen.plan, 6, 5) for _ in range(3)]
    z, y = (torch.from_numpy(np.stack([p[k] for p in pairs])).to(torch.int16) for k in (0, 1))
    return frozen, z, y


def test_engines_agree(case):
    frozen, z, y = case
    psi = frozen.hyper(z, 6, 5)
    assert psi.dtype == torch.uint8 and torch.equal(psi, frozen.hyper(z, 6, 5, engine="reference"))
    native, plain = (frozen.parameters(psi, y, engine=e, threads=2) for e in ("cpu", "reference"))
    assert all(torch.equal(a, b) and a.dtype == torch.int16 for a, b in zip(native, plain, strict=True))
    for lanes in (0, 4):
        z_streams = frozen.encode_z(z, lanes=lanes)
        y_streams = frozen.encode_y(psi, y, lanes=lanes, threads=2)
        assert z_streams == frozen.encode_z(z, lanes=lanes, engine="reference")
        assert y_streams == frozen.encode_y(psi, y, lanes=lanes, engine="reference")
        assert len(z_streams) == 3 and len(y_streams) == 3 and len(y_streams[0]) == 2
        for engine in ("cpu", "reference"):
            assert torch.equal(frozen.decode_z(z_streams, *z.shape[1:3], engine=engine), z)
            assert torch.equal(frozen.decode_y(psi, y_streams, engine=engine), y)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_bad_streams_name_the_image(case, engine):
    frozen, z, y = case
    psi = frozen.hyper(z, 6, 5)
    z_streams, y_streams = frozen.encode_z(z), frozen.encode_y(psi, y)
    cut = [z_streams[0], (z_streams[1].data[:-2], z_streams[1].lanes), z_streams[2]]
    with pytest.raises(TruncatedError, match="image 1"):
        frozen.decode_z(cut, *z.shape[1:3], engine=engine)
    long = [*y_streams[:2], [y_streams[2][0], (y_streams[2][1].data + b"\0\0", y_streams[2][1].lanes)]]
    # One lane takes the word for its own and then misses another: which error it is does not matter.
    with pytest.raises(BitstreamError, match="image 2"):
        frozen.decode_y(psi, long, engine=engine)
    with pytest.raises(DamagedError, match="5 lanes"):
        frozen.decode_z([(z_streams[0].data, 5)], *z.shape[1:3], engine=engine)
    with pytest.raises(ValueError, match="2 groups"):
        frozen.decode_y(psi, [s[:1] for s in y_streams], engine=engine)


def test_arguments_are_checked(case):
    frozen, z, y = case
    psi = frozen.hyper(z, 6, 5)
    with pytest.raises(TypeError, match="int16"):
        frozen.hyper(z.to(torch.int32), 6, 5)
    with pytest.raises(ValueError, match="shape"):
        frozen.hyper(z[..., :2], 6, 5)
    with pytest.raises(ValueError, match="does not belong"):
        frozen.hyper(z, 12, 5)
    with pytest.raises(ValueError, match="belong together"):
        frozen.encode_y(psi[:, :5], y)
    with pytest.raises(ValueError, match="engine"):
        frozen.encode_z(z, engine="gpu")
    with pytest.raises(ValueError, match="lanes"):
        frozen.encode_z(z, lanes=3)
    with pytest.raises(ValueError, match="-32768"):
        frozen.encode_z(torch.full_like(z, -32768))
    with pytest.raises(ValueError, match="instruction set"):
        frozen.packed("mmx")


def test_instruction_set_by_environment(case, monkeypatch):
    frozen, z, _ = case
    from ccm_fast import _backend

    best = frozen.hyper(z, 6, 5)
    for isa in _backend.load().ops.isa_list().split(","):
        monkeypatch.setenv("CCM_FAST_ISA", isa)
        assert torch.equal(frozen.hyper(z, 6, 5), best)


def test_frozen_copies(case):
    frozen, _, _ = case
    assert FrozenEntropyModel.from_bytes(frozen.to_bytes()).fingerprint == frozen.fingerprint
    assert pickle.loads(pickle.dumps(frozen)).fingerprint == frozen.fingerprint
    assert copy.deepcopy(frozen).fingerprint == frozen.fingerprint
    assert frozen.fingerprint.hex() in repr(frozen)
    with pytest.raises(PlanError):
        FrozenEntropyModel.from_bytes(frozen.to_bytes()[:-4])


@pytest.fixture(scope="module")
def model():
    from ccm_fast.freezing.freeze import freeze

    torch.manual_seed(0)
    model = CrossChannelContextModel(
        CCMConfig("tiny", (8, 8, 8), (0, 0, 0), (4, 2), 4, 8, cross_kernels=(3,), cross_width=4, parameter_widths=(8,))
    )
    freeze(model, [torch.rand(3, 64, 64)], steps=0)
    return model


def test_weights_round_trip(model, tmp_path):
    path = tmp_path / "tiny.safetensors"
    weights.save(model, path, {"trained on": "noise"})
    again = weights.load(path)
    assert not again.training and again.config == model.config and again.frozen.fingerprint == model.frozen.fingerprint
    assert not any(p.requires_grad for p in again.parameters())
    assert weights.read_meta(str(path)) == {"trained on": "noise"}
    for name in ("g_a.1.weight", "log_gain"):
        assert torch.equal(again.state_dict()[name], model.state_dict()[name].half().float())
    # The float entropy networks come from the integers.
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        a, b = (m.eval()(x, 4.0)["likelihoods"]["y"].log2().sum() for m in (model, again))
    assert float(a) == pytest.approx(float(b), rel=0.05)
    fresh = CrossChannelContextModel(model.config)
    fresh.load_state_dict(again.state_dict())
    assert not list(tmp_path.glob("*.tmp"))


def test_missing_models_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="shipped: none"):
        weights.load("ccm-huge")
    (tmp_path / "ccm-nice.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="ccm-nice"):
        weights.load("ccm-huge")
    with pytest.raises(ModelError):
        weights.load("ccm-nice")


def test_unfrozen_models_are_not_saved(tmp_path, model):
    other = CrossChannelContextModel(model.config)
    with pytest.raises(NotFrozenError):
        weights.save(other, tmp_path / "x.safetensors")


def test_bad_weights(model, tmp_path):
    good = tmp_path / "good.safetensors"
    weights.save(model, good)
    tensors = load_file(good)
    _, metadata = tensor_store.read_tensors(good, weights.FORMAT, "")
    bad = tmp_path / "bad.safetensors"

    def refused(match, changed=(), without=(), **meta):
        new = {k: v for k, v in {**tensors, **dict(changed)}.items() if k not in without}
        save_file(new, bad, {**metadata, **meta})
        with pytest.raises(ModelError, match=match):
            weights.load(bad)

    gain = "float.log_gain"
    refused("missing or unknown", without=[gain])
    refused("missing or unknown", {"extra": torch.zeros(1)}.items())
    refused("float32", {gain: tensors[gain].float()}.items())
    refused("log_gain", {gain: tensors[gain][:-1].contiguous()}.items())
    refused("not finite", {gain: torch.full_like(tensors[gain], torch.inf)}.items())
    refused("frozen entropy model is missing", without=["plan"])
    refused("row of bytes", {"plan": tensors["plan"].half()}.items())
    refused("plan", {"plan": tensors["plan"][:-4].clone()}.items())
    other = FrozenEntropyModel(random_plan(np.random.default_rng(0), (4, 2), schedule="single"))
    refused("does not belong", {"plan": torch.frombuffer(bytearray(other.to_bytes()), dtype=torch.uint8)}.items())
    other = FrozenEntropyModel(random_plan(np.random.default_rng(0), (4, 2)))
    refused("does not fit", {"plan": torch.frombuffer(bytearray(other.to_bytes()), dtype=torch.uint8)}.items())
    refused("format", format="something else")
    refused("'config'", config="{")
    refused("bad configuration", config='{"colour": "red"}')
    bad.write_bytes(b"not a weights file at all")
    with pytest.raises(ModelError, match="not a safetensors file"):
        weights.load(bad)
    bad.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ModelError):
        weights.load(bad)


def test_plans_of_residuals_are_no_weights_files(model, tmp_path):
    """Only accelerated nets have them: nothing here would encode with one, and what it decodes is in other units."""
    file = tmp_path / "residual.safetensors"
    weights.save(model, file)
    tensors = load_file(file)
    _, metadata = tensor_store.read_tensors(file, weights.FORMAT, "")
    c = model.config
    sizes = {"psi_channels": c.psi_channels, "cross_width": c.cross_width, "widths": c.parameter_widths}
    plan = random_plan(np.random.default_rng(0), c.groups, c.hyper_channels, **sizes, residual=True)
    tensors["plan"] = torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8)
    save_file(tensors, file, metadata)
    for load in (weights.load, ccm_fast.Codec.load):
        with pytest.raises(ModelError, match=weights.RESIDUAL):
            load(file)
    other = copy.deepcopy(model)
    other.frozen = FrozenEntropyModel(plan)
    with pytest.raises(ModelError, match=weights.RESIDUAL):
        weights.save(other, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_files_of_accelerated_nets_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(serialized({"plan": torch.zeros(40, dtype=torch.uint8)}, {"format": saved.FORMAT}))
    with pytest.raises(ModelError, match="no tensor 'medians'"):
        saved.read_saved(path, torch.nn.Identity())
    monkeypatch.setattr(tensor_store, "MAX_BYTES", 64)
    with pytest.raises(ModelError, match="larger than any weights file"):
        saved.read_saved(path, torch.nn.Identity())
