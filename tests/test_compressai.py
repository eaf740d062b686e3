"""The drop-in for CompressAI: its nets on the integer engine, its contract, its own strings, and what goes wrong."""

import functools
import hashlib
import json
import os
import subprocess
import sys

import compressai_nets as nets
import pytest
import torch
from torch import nn

import ccm_fast
from ccm_fast import errors
from ccm_fast._backend import load
from ccm_fast.interop.compressai import AcceleratedNet, lower
from ccm_fast.interop.compressai.codecs import leaves
from ccm_fast.interop.compressai.floats import FloatNet, sample
from ccm_fast.interop.compressai.parts import layers, subpixel
from ccm_fast.interop.compressai.read import read
from ccm_fast.interop.compressai.samples import dead_leaves
from ccm_fast.interop.compressai.synthesis import fast_transform

KINDS = sorted(nets.KINDS)
CODECS = ["checkerboard", "elic2022-chandelier", "elic2022-official"]
SERIAL = ["mbt2018", "cheng2020-anchor", *CODECS]

pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def fast(kind):
    return ccm_fast.accelerate(nets.make(kind), nets.photos(4, 64, 64, seed=9))


@functools.cache
def written(kind):
    """(images, CompressAI's own output, ours)."""
    x = nets.photos(2, 64, 128)
    with torch.no_grad():
        return x, fast(kind).net.compress(x), fast(kind).compress(x)


def hyper(net):
    return net.latent_codec["hyper"] if hasattr(net, "latent_codec") else net


def shape_of(out):
    """Of z: nets of latent codecs return a dictionary."""
    return tuple(out["shape"]["hyper"] if isinstance(out["shape"], dict) else out["shape"])


def size(out):
    return sum(len(s) for part in out["strings"] for s in part)


# ---------------------------------------------------------------------------------------------------------------------
# Parts, without CompressAI


@pytest.mark.parametrize(("kernel", "padding"), [(5, 2), (3, 1)])
def test_transposed_convolutions_are_subpixel_ones(kernel, padding):
    conv = nn.ConvTranspose2d(5, 7, kernel, 2, padding, 1).double()
    layer = subpixel(conv)
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    ours = nn.functional.pixel_shuffle(nn.functional.conv2d(x, layer.weight, layer.bias, padding=1), 2)
    assert torch.allclose(ours, conv(x), rtol=0, atol=1e-14)


def test_other_layers_are_refused_by_name():
    with pytest.raises(errors.ModelError, match="cannot take over ConvTranspose2d"):
        subpixel(nn.ConvTranspose2d(4, 4, 4, 2, 1))
    with pytest.raises(errors.ModelError, match="h_s holds a Sigmoid"):
        layers(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Sigmoid()), "h_s")


def test_own_pictures():
    a, b = dead_leaves(2, 64, seed=1)
    assert a.shape == (64, 64, 3) and a.std() > 10 and (a != b).any()
    assert (dead_leaves(1, 64, seed=1)[0] == a).all()


# ---------------------------------------------------------------------------------------------------------------------
# The contract


@pytest.mark.parametrize("kind", KINDS)
def test_drop_in(kind):
    x, theirs, ours = written(kind)
    assert tuple(ours["shape"]) == shape_of(theirs)
    assert [len(part) for part in ours["strings"]] == [2, 2]
    net = fast(kind).net
    with torch.no_grad():
        expected = net.decompress(theirs["strings"], theirs["shape"])["x_hat"]
    found = ccm_fast.decompress(net, ours["strings"], ours["shape"])["x_hat"]
    assert found.shape == x.shape and found.dtype == torch.float32 and found.is_contiguous()
    # The integer means differ a little from the float ones, and so does what is rounded around them.
    assert (found - expected).square().mean() < 0.05 * (x - expected).square().mean()
    # Headers and checksums cost some 25 bytes a picture; the rest is what the integers cost, on four pictures.
    assert size(ours) - 2 * 30 < 1.03 * size(theirs)
    assert ccm_fast.compress(net, x) == ours


@pytest.mark.parametrize("kind", CODECS)
def test_codecs_are_read_as_they_are(kind):
    """Scales and means of the float networks taken apart, against the net's own, anchors and the others."""
    net = nets.make(kind)
    codec, y = net.latent_codec, net.g_a(nets.photos(2, 64, 128))
    for leaf in leaves(codec["y"]):
        assert leaf.context_prediction.bias.abs().min() > 0  # which anchors do not see
    expected = codec(y)["y_hat"]
    found = read(net)
    z = torch.round(codec["hyper"].h_a(y) - found.medians.reshape(1, -1, 1, 1))
    mean, scale = FloatNet(found).parameters(FloatNet(found).psi(z)[-1], expected)
    assert torch.allclose(torch.round(y - mean) + mean, expected, atol=1e-5)
    assert scale.std() > 0.1
    one = sample(found, y[:1], z[:1] + found.medians.reshape(1, -1, 1, 1))
    assert torch.allclose(one.y_hat, expected[:1], atol=1e-5)


def test_codecs_that_do_not_fit_are_refused_by_name():
    net = nets.make("elic2022-official")
    net.latent_codec["y"].latent_codec["y1"].anchor_parity = "odd"
    with pytest.raises(errors.ModelError, match="different orders"):
        read(net)
    net = nets.make("elic2022-official")
    table = net.latent_codec["y"].latent_codec["y2"].latent_codec["y"].gaussian_conditional
    table.update_scale_table(table.scale_table * 2, force=True)
    with pytest.raises(errors.ModelError, match="different scale tables"):
        read(net)
    net = nets.make("checkerboard")
    net.latent_codec["y"].context_prediction.mask[:, :, 0, 0] = 1
    with pytest.raises(errors.ModelError, match="more than the anchors"):
        read(net)
    net = nets.make("checkerboard")
    net.latent_codec.latent_codec["y"] = nn.Identity()
    with pytest.raises(errors.ModelError, match=r"is a Identity, not a ChannelGroupsLatentCodec or .*supported nets"):
        read(net)


def test_odd_anchors():
    net = nets.make("checkerboard")
    net.latent_codec["y"].anchor_parity, net.latent_codec["y"].non_anchor_parity = "odd", "even"
    model = ccm_fast.accelerate(net, nets.photos(4, 64, 64, seed=9))
    assert model.frozen.plan.pattern.tolist() == [[1, 0], [0, 1]]
    x = nets.photos(1, 64, 64)
    ours, theirs = model.compress(x), net.compress(x)
    expected = net.decompress(theirs["strings"], theirs["shape"])["x_hat"]
    assert torch.equal(model.decompress(theirs["strings"], theirs["shape"])["x_hat"], expected)
    found = model.decompress(ours["strings"], ours["shape"])["x_hat"]
    assert (found - expected).square().mean() < 0.05 * (x - expected).square().mean()


@pytest.mark.parametrize("kind", KINDS)
def test_encoder_and_decoder_agree_on_latents(kind):
    model = fast(kind)
    x = nets.photos(1, 80, 112)  # latents that are no multiple of 4
    y = model.net.g_a(x)
    z = model._z_symbols(hyper(model.net).h_a(y.abs() if "hyperprior" in kind else y))
    psi = model.frozen.hyper(z, *y.shape[2:])
    streams, y_hat = model.frozen.encode_y_residual(psi, y.permute(0, 2, 3, 1).contiguous())
    assert torch.equal(model.frozen.decode_y(psi, streams), y_hat)
    error = (y_hat.permute(0, 3, 1, 2) / 16 - y).abs()
    assert error.max() <= 0.5 + 1 / 16 and y.abs().max() > 1


def test_odd_sizes_come_back():
    model = fast("mbt2018-mean")
    x = nets.photos(1, 77, 33)
    out = model.compress(x)
    assert model.decompress(out["strings"])["x_hat"].shape == x.shape


@pytest.mark.parametrize("kind", ["mbt2018", "elic2022-official"])
def test_two_machines_share_one_model(kind, tmp_path):
    model = fast(kind)
    _, _, ours = written(kind)
    model.save(tmp_path / "frozen.safetensors")
    other = ccm_fast.load(tmp_path / "frozen.safetensors", nets.make(kind))
    assert isinstance(other, AcceleratedNet) and other.frozen.fingerprint == model.frozen.fingerprint
    assert torch.equal(
        other.decompress(ours["strings"], ours["shape"])["x_hat"],
        model.decompress(ours["strings"], ours["shape"])["x_hat"],
    )
    with pytest.raises(errors.ModelError, match="belongs to another net"):
        ccm_fast.load(tmp_path / "frozen.safetensors", nets.make(kind, seed=1))
    with pytest.raises(errors.ModelError, match="another net"):
        ccm_fast.load(tmp_path / "frozen.safetensors", nets.make("cheng2020-anchor"))
    with pytest.raises(errors.ModelError):
        ccm_fast.load(tmp_path / "frozen.safetensors")


@pytest.mark.slow
def test_fine_tuning_mends_a_bad_calibration(monkeypatch):
    options = {"images": nets.photos(8, 64, 64, seed=9), "steps": 40, "fast": False}
    good, bad = [], []
    ccm_fast.accelerate(nets.make("mbt2018"), history=good, **options)
    assert len(good) == 42 and max(good[0], good[-1]) < 0.002
    monkeypatch.setattr(lower, "_CLIPS", (0.3,))
    ccm_fast.accelerate(nets.make("mbt2018"), history=bad, **options)
    assert bad[0] > 2 * good[0] and bad[-1] < 0.8 * bad[0]


@pytest.mark.usefixtures("float_transforms")
def test_transforms():
    for kind, h in (("mbt2018", 40), ("cheng2020-attn", 36)):
        nets.models()
        torch.manual_seed(0)
        name = nets.KINDS[kind][0]
        net = getattr(nets.models(), name)(*([h] * len(nets.KINDS[kind][1]))).eval().requires_grad_(False)
        x, y = nets.photos(1, 48, 80), torch.randn(1, h, 3, 5)
        for module, inputs in ((net.g_a, x), (net.g_s, y)):
            expected = module(inputs)
            found = fast_transform(module)(inputs)
            assert torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
            assert not torch.equal(found, expected)  # it is another algorithm


# ---------------------------------------------------------------------------------------------------------------------
# Exactness

CHILD = """
import hashlib, json, sys
from ccm_fast.decoding import decode_latents, parse_packets
from ccm_fast.entropy.frozen import FrozenEntropyModel
from safetensors import safe_open
for path, case in json.load(open(sys.argv[1])):
    with safe_open(path, framework="pt") as file:
        frozen = FrozenEntropyModel.from_bytes(file.get_tensor("plan").numpy().tobytes())
    packets = parse_packets(frozen, [[bytes.fromhex(s) for s in part] for part in case], None)
    y = decode_latents(frozen, packets, threads=1)
    print(hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest())
"""


def latents(kind):
    """Of what we have written."""
    from ccm_fast.decoding import decode_latents, parse_packets

    frozen, ours = fast(kind).frozen, written(kind)[2]
    return decode_latents(frozen, parse_packets(frozen, ours["strings"], ours["shape"]), threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERIAL)
def test_one_set_of_latents(kind):
    """Instruction sets, threads, batches, the oracle."""
    from ccm_fast.decoding import decode_latents, parse_packets

    model = fast(kind)
    frozen = model.frozen
    _, _, ours = written(kind)
    packets = parse_packets(frozen, ours["strings"], ours["shape"])
    expected = latents(kind)
    z = frozen.decode_z([p.z_stream for p in packets], *packets[0].z_shape)
    streams = [p.y_streams for p in packets]
    for isa in load().ops.isa_list().split(","):
        for threads in (1, 2):
            psi = frozen.hyper(z, *packets[0].y_shape, isa=isa, threads=threads)
            assert torch.equal(frozen.decode_y(psi, streams, isa=isa, threads=threads), expected)
            for k in range(2):
                alone = frozen.decode_y(psi[k : k + 1], streams[k : k + 1], isa=isa, threads=threads)
                assert torch.equal(alone[0], expected[k])
    assert torch.equal(decode_latents(frozen, packets, engine="reference"), expected)


@pytest.mark.slow
def test_one_set_of_latents_without_vector_instructions(tmp_path):
    """In a process of its own, which such a limit has to be set for."""
    cases = []
    for kind in SERIAL:
        fast(kind).save(tmp_path / f"{kind}.safetensors")
        strings = [[s.hex() for s in part] for part in written(kind)[2]["strings"]]
        cases.append([str(tmp_path / f"{kind}.safetensors"), strings])
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "CCM_FAST_ISA": "scalar", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "cases.json")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    expected = [hashlib.sha256(latents(kind).contiguous().numpy().tobytes()).hexdigest() for kind in SERIAL]
    assert result.stdout.split() == expected


# ---------------------------------------------------------------------------------------------------------------------
# Strings that CompressAI wrote


@pytest.mark.parametrize("kind", KINDS)
def test_strings_that_compressai_wrote(kind):
    _, theirs, _ = written(kind)
    model = fast(kind)
    with torch.no_grad():
        expected = model.net.decompress(theirs["strings"], theirs["shape"])["x_hat"]
    assert torch.equal(model.decompress(theirs["strings"], theirs["shape"])["x_hat"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_strings_of_compressai(kind):
    _, theirs, _ = written(kind)
    model = fast(kind)
    strings = [part[:1] for part in theirs["strings"]]
    shape = shape_of(theirs)
    *_, (y,), (z,) = strings  # of the last group

    def but(y=y, z=z):
        return [*strings[:-2], [y], [z]]

    cases = {
        "y truncated": (but(y[:-4]), shape),
        "y cut to half": (but(y[: len(y) // 8 * 4]), shape),
        "z truncated": (but(z=z[:-4]), shape),
        "y empty": (but(b""), shape),
        "z of odd length": (but(z=z + b"\0"), shape),
        "extra bytes": (but(y + bytes(8)), shape),
        "swapped": (but(z, y), shape),
        "shape too small": (strings, (shape[0], shape[1] - 1)),
        "shape too large": (strings, (shape[0] + 1, shape[1])),
        "another y": (but(z + y), shape),
    }
    for name, (damaged, s) in cases.items():
        with pytest.raises(errors.BitstreamError):
            model.decompress(damaged, s)
            pytest.fail(f"{name}: decoded")
    other = ccm_fast.accelerate(nets.make(kind, seed=5), nets.photos(1, 64, 64))
    with pytest.raises(errors.BitstreamError, match="CompressAI wrote"):
        other.decompress(strings, shape)
    with pytest.raises(errors.LimitError):
        model.decompress(strings, (100_000, 100_000))
    with pytest.raises(ValueError, match="need the shape"):
        model.decompress(strings)
    strict = AcceleratedNet(model.net, model._entropy, model.frozen, exact=False, fast=False)
    with pytest.raises(errors.NotCcmError, match="CompressAI wrote these strings"):
        strict.decompress(strings, shape)


def test_strings_of_compressai_that_end_end_the_loop():
    """The autoregressive loop, whose every position costs the net's own convolutions."""
    _, theirs, _ = written("mbt2018")
    model = fast("mbt2018")
    (y,), (z,) = (part[:1] for part in theirs["strings"])
    positions = []
    hook = model.net.entropy_parameters.register_forward_hook(lambda *_: positions.append(0))
    try:
        with pytest.raises(errors.TruncatedError):
            model.decompress([[y[: len(y) // 8 * 4]], [z]], shape_of(theirs))
    finally:
        hook.remove()
    h, w = (4 * side for side in shape_of(theirs))
    assert 0 < len(positions) < 0.8 * h * w


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_wrong_nets():
    class Unknown(nn.Module):
        pass

    with pytest.raises(errors.ModelError, match="Unknown is none of the nets"):
        ccm_fast.accelerate(Unknown())
    with pytest.raises(errors.ModelError, match="FactorizedPrior is none of the nets"):
        read(nets.models().FactorizedPrior(4, 6))
    # Its parts have the names of mbt2018-mean's, and more between them.
    with pytest.raises(errors.ModelError, match="MeanScaleHyperpriorVbr scales y by a gain"):
        read(nets.models().MeanScaleHyperpriorVbr(4, 6))
    for kind in KINDS:
        with pytest.raises(errors.NotFrozenError, match=r"net\.update"):
            ccm_fast.accelerate(nets.make(kind, update=False))
    net = nets.make("mbt2018")
    with pytest.raises(errors.NotFrozenError, match=r"ccm_fast\.accelerate"):
        ccm_fast.compress(net, nets.photos(1, 64, 64))
    net.h_s[1] = nn.Tanh()
    with pytest.raises(errors.ModelError, match="h_s holds a Tanh"):
        ccm_fast.accelerate(net)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_calls(kind):
    model = fast(kind)
    _, _, ours = written(kind)
    y, z = ours["strings"]
    for strings in ([y], [y, z, z], [y, z[:1]], [[], []], y):
        with pytest.raises((ValueError, TypeError)):
            model.decompress(strings, ours["shape"])
    with pytest.raises(errors.DamagedError, match="contradicts"):
        model.decompress(ours["strings"], (2, 3))
    with pytest.raises(errors.DamagedError, match="swapped"):
        model.decompress([z, y], ours["shape"])
    with pytest.raises(errors.WrongModelError):
        fast("mbt2018" if kind != "mbt2018" else "mbt2018-mean").decompress(ours["strings"], ours["shape"])
    for bad in (torch.rand(3, 64, 64), torch.rand(1, 4, 64, 64), torch.rand(1, 3, 0, 64)):
        with pytest.raises(ValueError, match="shape"):
            model.compress(bad)
    with pytest.raises(TypeError, match="floating-point"):
        model.compress(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(errors.EncodeError):
        model.compress(torch.full((1, 3, 64, 64), float("nan")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_of_ours_is_found(kind):
    model = fast(kind)
    _, _, ours = written(kind)
    y, z = (part[0] for part in ours["strings"])
    shape = ours["shape"]
    step = max(1, len(y) // (60 if kind == "mbt2018-mean" else 12))
    for n in range(0, len(y), step):
        with pytest.raises(errors.BitstreamError):
            model.decompress([[y[:n]], [z]], shape)
        flipped = bytearray(y)
        flipped[n] ^= 1 << (n % 8)
        with pytest.raises(errors.BitstreamError):
            model.decompress([[bytes(flipped)], [z]], shape)
    for n in range(0, len(z), 1 if kind == "mbt2018-mean" else 7):
        with pytest.raises(errors.BitstreamError):
            model.decompress([[y], [z[:n]]], shape)


def test_a_net_that_was_moved_runs_its_own_layers():
    """The fast copies are for the CPU alone; back there, they are used again."""
    out = written("mbt2018")[2]
    net, ours = nets.make("mbt2018"), fast("mbt2018")
    again = AcceleratedNet(net, read(net), ours.frozen, exact=True, fast=True)
    expected = again.decompress(**out)["x_hat"]
    assert again._transform("g_s") is not net.g_s
    net.to("meta")
    for name in ("g_a", "h_a", "g_s"):
        assert again._transform(name) is getattr(net, name)
    net.to_empty(device="cpu").load_state_dict(ours.net.state_dict())
    assert torch.equal(again.decompress(**out)["x_hat"], expected)  # back on the CPU: the copies again
