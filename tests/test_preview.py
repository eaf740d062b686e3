"""Pictures of the first groups of a file, and of files that are cut off."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageFile

import ccm_fast
import ccm_fast.interop.pillow
from ccm_fast import decoding, errors, files
from ccm_fast.command.info import describe
from ccm_fast.command.main import main
from ccm_fast.entropy.tables import row_means
from ccm_fast.psnr import psnr
from ccm_fast.stream.packet import groups_available, parse_file

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(tiny.photo(75, 90), 5, effort=1, lanes=4, chunks={"N": b"note"})


@pytest.mark.parametrize("name", ["tiny", "skipping", "ccm-small"])
def test_what_is_not_read_is_its_mean(codec, data, name, tmp_path):
    """Latents and pixels beside those that torch's modules make of the definition."""
    model = {"tiny": tiny.model, "skipping": tiny.skipping}.get(name, lambda: ccm_fast.load("ccm-small"))()
    path = tmp_path / "model.safetensors"
    if name == "skipping":
        ccm_fast.weights.save(model, path)
    native = {"tiny": codec}.get(name) or ccm_fast.Codec.load(path if name == "skipping" else name)
    if name != "tiny":
        data = native.encode(tiny.photo(75, 90), 5, effort=1)
    whole = files.decode_bytes(data, native)
    frozen, packet = model.frozen, whole.packet
    z_hat = frozen.decode_z([packet.z_stream], *packet.z_shape)
    psi = frozen.hyper(z_hat, *packet.y_shape)
    mean = torch.from_numpy(row_means(frozen.plan)[0]).float()
    ends = np.cumsum([0, *frozen.plan.group_channels])
    for groups in range(len(ends)):
        for threads in (1, 3):
            found = files.decode_bytes(data, native, groups=groups, threads=threads)
            end = ends[groups]
            assert np.array_equal(found.latents[..., :end], whole.latents[..., :end])
            y_hat = torch.from_numpy(found.latents)[None]
            offset, row = frozen.parameters(psi, y_hat)
            assert torch.equal(y_hat[..., end:], offset[..., end:])
        if model.config.reconstruction == "centroid":
            values = frozen.centroids(y_hat, offset, row)
        else:
            values = y_hat.float()
        values[..., end:] = offset[..., end:] + mean[row[..., end:].long()]
        rendered = torch.zeros(1, 3, 75, 90)
        for rows, columns, pixels in decoding.render(model, values, [packet]):
            rendered[:, :, rows, columns] = pixels
        want = rendered[0].mul(255).round().byte().permute(1, 2, 0).numpy()
        assert np.abs(found.picture.pixels.astype(int) - want).max() <= 1
        assert np.mean(found.picture.pixels != want) < 1e-3
    assert np.array_equal(found.picture.pixels, whole.picture.pixels)


def test_more_groups_are_a_better_picture():
    photo = (tiny.photographs(128, 192)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    codec = ccm_fast.Codec.load("ccm-small")
    data = codec.encode(photo, 5)
    quality = [psnr(photo, codec.decode(data, groups=n)) for n in range(codec.groups + 1)]
    assert quality == sorted(quality) and quality[0] > 9 and quality[-1] > 30


def test_a_file_that_is_cut_off_is_decoded_on_request_only(codec, data):
    ends = describe(data)["previews"]
    assert len(ends) == 4 and ends == sorted(ends) and ends[-1] == len(data)
    for groups, end in enumerate(ends[:-1]):
        part = data[:end]
        with pytest.raises((errors.TruncatedError, errors.DamagedError)):
            codec.decode(part)
        want = codec.decode(data, groups=groups)
        for size in (end, end + 1, len(data) if groups == 2 else ends[groups + 1] - 1):
            assert np.array_equal(codec.decode(data[:size], groups=groups), want)
        assert np.array_equal(codec.decode(part, groups="available"), want)
        with pytest.raises(errors.TruncatedError):
            codec.decode(data[: end - 1], groups=groups)
        with pytest.raises((errors.TruncatedError, errors.DamagedError)):
            codec.decode(part, groups=3)
    with pytest.raises(errors.TruncatedError, match="the stream of z"):
        codec.decode(data[: ends[0] - 1], groups="available")
    assert np.array_equal(codec.decode(data, groups="available"), codec.decode(data))
    two = codec.decode([data, data[: ends[1]]], groups="available")
    assert np.array_equal(two[0], codec.decode(data)) and np.array_equal(two[1], codec.decode(data, groups=1))


def test_files_of_version_1():
    data = (tiny.GOLDEN / "colour.ccm").read_bytes()
    codec = ccm_fast.Codec.load(WEIGHTS)
    ends = describe(data)["previews"]
    for groups, end in enumerate(ends[:-1]):
        assert np.array_equal(codec.decode(data[:end], groups=groups), codec.decode(data, groups=groups))
        assert groups_available(data[4:end], 3) == groups


def test_damage_in_what_is_read_is_found(codec, data):
    ends = describe(data)["previews"]
    packet = parse_file(codec.open_file(data).packet, 3)
    assert ends[1] - ends[0] == len(packet.streams[1])
    changed = bytearray(data)
    changed[ends[0] + 1 : ends[1]] = bytes(255 - b for b in changed[ends[0] + 1 : ends[1]])
    codec.decode(bytes(changed), groups=0)
    with pytest.raises(errors.BitstreamError, match="a stream of y"):
        codec.decode(bytes(changed), groups=1)
    with pytest.raises(errors.BitstreamError):
        codec.decode(bytes(changed), groups="available")


def test_arguments(codec, data):
    for wrong, error in ((-1, ValueError), (4, ValueError), ("all", TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="groups must"):
            codec.decode(data, groups=wrong)
    with pytest.raises(ValueError, match="previews"):
        files.decode_bytes(data, tiny.model(), groups=1)
    with pytest.raises(ValueError, match="this model has"):
        codec._native.decode([codec.open_file(data)], 1, 8, 4)


def test_pillow(codec, data, monkeypatch, tmp_path):
    monkeypatch.setattr(ccm_fast.interop.pillow.CcmImageFile, "model", codec)
    path = tmp_path / "a.ccm"
    path.write_bytes(data[: describe(data)["previews"][1]])
    with Image.open(path) as image, pytest.raises(errors.BitstreamError):
        image.load()
    want = codec.decode(data, groups=1)
    with Image.open(path) as image:
        image.groups = 1
        assert np.array_equal(np.asarray(image), want)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), want)


def test_commands(codec, data, tmp_path, capsys):
    whole, part, out = tmp_path / "a.ccm", tmp_path / "b.ccm", tmp_path / "out.png"
    whole.write_bytes(data)
    assert main(["info", "--json", str(whole)]) == 0
    ends = json.loads(capsys.readouterr().out)["previews"]
    assert main(["info", str(whole)]) == 0 and f"0 to 3 groups: {ends[0]}, " in capsys.readouterr().out
    part.write_bytes(data[: ends[2] + 3])
    options = ["-m", str(WEIGHTS), "--quiet"]
    assert main(["decode", *options, str(part), str(out)]) == 1 and not out.exists()
    for source, groups, read in ((whole, "2", 2), (part, "available", 2), (part, "1", 1), (whole, "available", 3)):
        assert main(["decode", *options, "--force", "--groups", groups, str(source), str(out)]) == 0
        with Image.open(out) as image:
            assert np.array_equal(np.asarray(image), codec.decode(data, groups=read))
    for wrong in ("-1", "some", "1.5"):
        with pytest.raises(SystemExit):
            main(["decode", "--groups", wrong, str(whole), str(out)])
        assert "or 'available'" in capsys.readouterr().err
    assert main(["decode", *options, "--force", "--groups", "1", "--thumbnail", "9", str(whole), str(out)]) == 2
    files.decode_file(part, out, WEIGHTS, groups="available")
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), codec.decode(data, groups=2))
