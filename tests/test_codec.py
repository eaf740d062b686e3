"""compress / decompress, tiles, and the golden files."""

import hashlib
import json

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import compress, decoding, decompress, errors, files, tiles
from ccm_fast.models import CrossChannelContextModel
from ccm_fast.oracle import reference_decompress
from ccm_fast.stream.quality import quality_code

GOLDEN = json.loads((tiny.GOLDEN / "golden.json").read_text())


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def batch(*seeds, height=40, width=56):
    return torch.stack([torch.from_numpy(tiny.photo(height, width, s)).permute(2, 0, 1) / 255 for s in seeds])


# ---------------------------------------------------------------------------------------------------------------------
# Golden files


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_decode_to_the_same_latents_for_ever(model, name, engine):
    want = GOLDEN[name]
    model = tiny.skipping() if want.get("plan") == 3 else model
    decoded = files.decode_bytes((tiny.GOLDEN / f"{name}.ccm").read_bytes(), model, engine=engine)
    latents = decoded.latents
    assert latents.dtype == np.int16 and list(latents.shape) == want["shape"]
    assert hashlib.sha256(latents.astype("<i2").tobytes()).hexdigest() == want["sha256"]
    assert [decoded.packet.width, decoded.packet.height] == want["size"]
    assert decoded.packet.quality == want["quality"] and list(decoded.packet.lanes) == want["lanes"]
    assert decoded.packet.version == want.get("version", 1)
    assert {k: len(v) for k, v in decoded.picture.chunks.items()} == want["chunks"]
    assert abs(float(decoded.picture.pixels.mean()) - want["mean"]) < 0.5  # floats: nearly the same everywhere


# Encoders wrote grey2 and colour3 before lanes retired.
@pytest.mark.parametrize("name", sorted(set(GOLDEN) - {"grey2", "colour3"}))
def test_latents_are_coded_to_the_golden_bytes(model, name):
    """The encoder's integer half: whatever floats made of the image, these latents have these bytes."""
    data = (tiny.GOLDEN / f"{name}.ccm").read_bytes()
    model = tiny.skipping() if GOLDEN[name].get("plan") == 3 else model
    decoded = files.decode_bytes(data, model)
    packet, frozen = decoded.packet, model.frozen
    z_hat = frozen.decode_z([packet.z_stream], *packet.z_shape)
    psi = frozen.hyper(z_hat, *packet.y_shape)
    options = {"version": packet.version}
    (z,) = frozen.encode_z(z_hat, lanes=packet.lanes[0], **options)
    (y,) = frozen.encode_y(psi, torch.from_numpy(decoded.latents)[None], lanes=packet.lanes[1], **options)
    assert [z.data, *(s.data for s in y)] == [bytes(s) for s in packet.streams]


# ---------------------------------------------------------------------------------------------------------------------
# In memory


@pytest.mark.usefixtures("float_transforms")
@pytest.mark.parametrize("height, width", [(1, 1), (1, 70), (33, 2), (16, 16), (40, 56), (63, 65)])
def test_own_size_and_the_readable_decoder(model, height, width):
    x = batch(1, 2, height=height, width=width)
    out = compress(model, x, quality=3)
    assert out["shape"] == (-(-height // 64), -(-width // 64))
    assert [len(s) for s in out["strings"]] == [2, 2] and isinstance(out["strings"][0][0], bytes)
    x_hat = decompress(model, out["strings"], out["shape"])["x_hat"]
    assert x_hat.shape == x.shape and x_hat.dtype == torch.float32
    assert float(x_hat.min()) >= 0 and float(x_hat.max()) <= 1
    # g_s as it stands, and its fast copy: the same latents.
    assert (reference_decompress(model, out["strings"], out["shape"])["x_hat"] - x_hat).abs().max() < 1e-5
    assert compress(model, x, quality=3, engine="reference") == out


def test_alone_and_in_a_batch_and_with_any_threads(model):
    x = batch(1, 2, 3)
    together = compress(model, x, [1.0, 4.5, 8.0])
    latents = decoding.decode_latents(model.frozen, decoding.parse_packets(model.frozen, together["strings"], None))
    for k in range(3):
        alone = [[s[k]] for s in together["strings"]]
        packets = decoding.parse_packets(model.frozen, alone, together["shape"])
        assert packets[0].quality == [1.0, 4.5, 8.0][k]
        for threads in (1, 2):
            assert torch.equal(decoding.decode_latents(model.frozen, packets, threads=threads)[0], latents[k])
    before = torch.get_num_threads()
    assert compress(model, x, [1.0, 4.5, 8.0], threads=1)["shape"] == together["shape"]
    assert torch.get_num_threads() == before


def test_quality_is_quantized_on_both_sides(model):
    x = batch(5)
    assert compress(model, x, 4.0 + 1 / 70) == compress(model, x, 4.0)
    assert compress(model, x, torch.tensor(4.1)) == compress(model, x, 4 + 3 / 32)
    assert [quality_code(q) for q in (1, 8, 4.02)] == [0, 224, 97]


def test_result_is_an_ordinary_tensor(model):
    out = compress(model, batch(1))
    x_hat = decompress(model, out["strings"], out["shape"])["x_hat"]
    weight = torch.ones(1, requires_grad=True)
    (x_hat * weight).sum().backward()  # tensors of inference mode could not be saved for backward


def test_timings(model):
    seconds = {}
    out = compress(model, batch(1), timings=seconds)
    assert set(seconds) == {"g_a", "h_a", "h_s", "effort", "entropy"}
    seconds = {}
    decompress(model, out["strings"], out["shape"], timings=seconds)
    assert set(seconds) == {"z", "h_s", "entropy", "g_s"} and min(seconds.values()) > 0


@pytest.mark.parametrize(
    "x, error, text",
    [
        (np.zeros((1, 3, 8, 8), np.float32), TypeError, "torch.Tensor"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "floating"),
        (torch.zeros(3, 8, 8), ValueError, "shape"),
        (torch.zeros(1, 1, 8, 8), ValueError, "shape"),
        (torch.zeros(1, 3, 0, 8), ValueError, "shape"),
        (torch.full((1, 3, 8, 8), 2.0), ValueError, r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), -0.1), ValueError, r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, r"\[0, 1\]"),
    ],
)
def test_bad_images(model, x, error, text):
    with pytest.raises(error, match=text):
        compress(model, x)


def test_bad_arguments(model):
    x = batch(1)
    for quality in (0.9, 8.1, float("nan")):
        with pytest.raises(ValueError, match="quality"):
            compress(model, x, quality)
    with pytest.raises(ValueError, match="2 qualities for 1"):
        compress(model, x, [1, 2])
    with pytest.raises(ValueError, match="threads"):
        compress(model, x, threads=0)
    with pytest.raises(ValueError, match="lanes"):
        compress(model, x, lanes=3)
    with pytest.raises(ValueError, match="engine"):
        compress(model, x, engine="abacus")
    fresh = CrossChannelContextModel(tiny.CONFIG)
    for call in (lambda: compress(fresh, x), lambda: decompress(fresh, [[b""], [b""]], (1, 1))):
        with pytest.raises(errors.NotFrozenError, match=r"ccm_fast\.freeze"):
            call()


def test_the_encoder_refuses_what_it_cannot_code():
    for value in (1e7, float("nan")):
        broken = tiny.make()
        broken.g_a[-1].bias.data.fill_(value)
        with pytest.raises(errors.EncodeError):
            compress(broken, batch(1))


def test_bad_strings(model):
    a, b = compress(model, batch(1)), compress(model, batch(1, height=41))
    (ya,), (za,) = a["strings"]
    (yb,), (zb,) = b["strings"]
    with pytest.raises(ValueError, match=r"56x40, 56x41"):
        decompress(model, [[ya, yb], [za, zb]], a["shape"])
    with pytest.raises(errors.DamagedError, match="contradicts"):
        decompress(model, a["strings"], (2, 2))
    for strings in ([], [[ya], [za, za]], [[], []]):
        with pytest.raises(ValueError, match="strings"):
            decompress(model, strings, a["shape"])
    with pytest.raises(errors.BitstreamError):
        decompress(model, [[ya], [bytes([za[0] ^ 1]) + za[1:]]], None)
    other = tiny.make(seed=1)
    with pytest.raises(errors.WrongModelError, match=model.frozen.fingerprint.hex()):
        decompress(other, a["strings"], a["shape"])
    with pytest.raises(errors.LimitError):
        decompress(model, a["strings"], a["shape"], max_pixels=40 * 56 - 1)


# ---------------------------------------------------------------------------------------------------------------------
# Tiles


def footprint(module, shape, at):
    """Rows and columns of the input that some output values depend on, by gradients."""
    x = torch.randn(shape, requires_grad=True)
    module(x)[(..., *at)].abs().sum().backward()
    where = x.grad.abs().sum((0, 1)).nonzero()
    return where.amin(0).tolist(), where.amax(0).tolist()


@pytest.mark.parametrize("preset", ["ccm-small", "tiny"])
def test_margins_cover_the_receptive_field(preset):
    torch.manual_seed(1)
    m = CrossChannelContextModel(tiny.CONFIG if preset == "tiny" else preset)
    n, k = 32, 16
    low, high = footprint(m.g_a, (1, 3, 16 * n, 16 * n), (slice(k, k + 1), slice(k, k + 1)))
    reach = tiles.margin(m.g_a, "analysis")
    for lo, hi in zip(low, high):
        assert k - reach <= lo // 16 and hi // 16 <= k + reach
    assert min(low) // 16 <= k - reach + 1  # nor is it wasteful
    pixels = slice(16 * k, 16 * k + 16)
    low, high = footprint(m.g_s, (1, m.config.latent_channels, n, n), (pixels, pixels))
    reach = tiles.margin(m.g_s, "synthesis")
    for lo, hi in zip(low, high):
        assert k - reach <= lo and hi <= k + reach
    assert min(low) <= k - reach + 1


@pytest.mark.parametrize("h, w, budget", [(50, 40, 900), (1, 3000, 600), (3000, 1, 600), (90, 90, 1), (7, 9, 63)])
def test_tiles_cover_everything_once(h, w, budget):
    around = 6
    count = np.zeros((h, w), int)
    for t in tiles.plan_tiles(h, w, around, budget):
        count[t.i0 : t.i1, t.j0 : t.j1] += 1
        area = (t.outer_i1 - t.outer_i0) * (t.outer_j1 - t.outer_j0)
        assert area <= max(budget, (2 * around + 2) ** 2)
        assert t.outer_i0 == max(0, t.i0 - around) and t.outer_j1 == min(w, t.j1 + around)
    assert (count == 1).all()


def test_tiles_have_no_seams(model):
    x = batch(7, height=900, width=700)
    size, (h, w) = (900, 700), (57, 44)
    pad = torch.nn.functional.pad(x, (0, 4, 0, 12), mode="replicate")
    with torch.inference_mode():
        whole = tiles.analyse(model.g_a, lambda i, j: pad[..., i, j], h, w)
        cut = tiles.analyse(model.g_a, lambda i, j: pad[..., i, j], h, w, 1 << 17)
    assert torch.allclose(whole, cut, rtol=1e-4, atol=1e-5)

    def image(tile_pixels):
        out = torch.zeros(1, 3, *size)
        with torch.inference_mode():
            for rows, columns, pixels in decoding.render(model, y_hat, packets, tile_pixels):
                out[..., rows, columns] = pixels
        return out

    encoded = compress(model, x)
    packets = decoding.parse_packets(model.frozen, encoded["strings"], encoded["shape"])
    y_hat = decoding.decode_latents(model.frozen, packets)
    assert torch.allclose(image(1 << 30), image(1 << 16), rtol=1e-4, atol=1e-5)


def test_layers_of_unknown_reach_have_no_margin():
    assert tiles.margin(torch.nn.Sequential(torch.nn.UpsamplingBilinear2d(2)), "synthesis") is None
