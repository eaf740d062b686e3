"""Datasets of .ccm files, and decoders for other loaders."""

import functools
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch.utils.data import DataLoader

import ccm_fast
from ccm_fast import data, errors

ROOT = Path(__file__).parents[1]
WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
# Newer Pythons warn where a process with threads is forked, which DataLoader does.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@functools.cache
def coded(seed, height=24, width=32):
    return ccm_fast.Codec.load(WEIGHTS).encode(tiny.photo(height, width, seed), 4, effort=1)


def pixels(seed):
    return torch.from_numpy(ccm_fast.Codec.load(WEIGHTS).decode(coded(seed))).permute(2, 0, 1)


def add_member(shard, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def write_shard(path, numbers):
    """A shard with a picture, a class and a note of each number."""
    with tarfile.open(path, "w") as shard:
        for k in numbers:
            for extension, content in (("ccm", coded(k)), ("cls", b"%d" % k), ("txt", b"n")):
                add_member(shard, f"part/{k:03}.{extension}", content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures 0 to 6 as files in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(7):
        path = folder / ("a" if k < 3 else "b") / f"{k}.ccm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(coded(k))
    (folder / "a/notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Pictures 0 to 9 in four shards."""
    folder = tmp_path_factory.mktemp("shards")
    for k, numbers in enumerate((range(3), range(3, 4), range(4, 8), range(8, 10))):
        write_shard(folder / f"{k}.tar", numbers)
    return folder


def numbers(samples):
    return [int(sample["key"].rpartition("/")[2]) for sample in samples]


def test_a_folder_by_number(folder):
    dataset = data.CcmDataset(folder, model=WEIGHTS)
    assert len(dataset) == 7 and dataset.keys == [f"{'a' if k < 3 else 'b'}/{k}" for k in range(7)]
    for k, sample in enumerate(dataset[k] for k in range(7)):
        assert set(sample) == {"key", "image"} and torch.equal(sample["image"], pixels(k))
    with pytest.raises(IndexError):
        dataset[7]
    together = data.CcmDataset([folder / "b", folder / "a/1.ccm"], model=WEIGHTS, transform=lambda s: s["key"])
    assert [together[k] for k in range(5)] == ["3", "4", "5", "6", "1"]


def test_shards_by_number(shards):
    dataset = data.CcmDataset(shards, model=WEIGHTS)
    assert len(dataset) == 10
    for k in (9, 3, 0):
        sample = dataset[k]
        assert set(sample) == {"key", "image", "cls", "txt"} and sample["key"] == f"part/{k:03}"
        assert torch.equal(sample["image"], pixels(k)) and sample["cls"] == b"%d" % k
    assert numbers(dataset.__getitems__([5, 2])) == [5, 2]


@pytest.mark.parametrize("workers, start", [(0, None), (2, "fork")])
def test_loaders_give_batches_in_order(shards, workers, start):
    if start == "fork":
        ccm_fast.decode_arrays([coded(0)], model=WEIGHTS)  # what a parent has used its children can use
    dataset = data.CcmDataset(shards, model=WEIGHTS)
    loader = DataLoader(dataset, 4, num_workers=workers, multiprocessing_context=start)
    batches = list(loader)
    assert [len(b["image"]) for b in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([b["image"] for b in batches]), torch.stack([pixels(k) for k in range(10)]))
    stream = data.CcmIterableDataset(shards, model=WEIGHTS)
    loader = DataLoader(stream, None, num_workers=workers, multiprocessing_context=start)
    found = list(loader)
    assert sorted(numbers(found)) == list(range(10)) and numbers(found) == numbers(loader)
    for sample in found:
        assert torch.equal(sample["image"], pixels(numbers([sample])[0]))


@pytest.mark.slow
def test_spawned_workers(shards):
    options = {"num_workers": 1, "multiprocessing_context": "spawn"}
    for kind in (data.CcmDataset, data.CcmIterableDataset):
        found = list(DataLoader(kind(shards, model=WEIGHTS), None, **options))
        assert numbers(found) == list(range(10))
        assert all(torch.equal(sample["image"], pixels(k)) for k, sample in enumerate(found))


@pytest.mark.parametrize("world_size, workers", [(1, 0), (2, 0), (3, 2), (5, 0), (11, 0)])
def test_every_sample_goes_to_one_worker(shards, folder, monkeypatch, world_size, workers):
    """Shards are dealt out where there are enough, else samples; each order is the same again."""
    from ccm_fast.data import datasets

    for sources, count in ((shards, 10), (folder, 7), ([folder, shards], 17)):
        everything = []
        for rank in range(world_size):
            stream = data.CcmIterableDataset(
                sources, model=WEIGHTS, transform=lambda s: s["key"], rank=rank, world_size=world_size
            )
            for worker in range(workers or 1):
                info = type("Info", (), {"num_workers": workers, "id": worker}) if workers else None
                monkeypatch.setattr(datasets, "get_worker_info", lambda info=info: info)
                part = list(stream)
                assert part == list(stream)
                everything += part
        assert len(everything) == len(set(everything)) == count


def test_shuffled_order_follows_seed_and_epoch(shards):
    def order(seed=0, epoch=0, **options):
        stream = data.CcmIterableDataset(shards, model=WEIGHTS, shuffle=4, seed=seed, **options)
        stream.set_epoch(epoch)
        return numbers(stream)

    assert order() == order() and sorted(order()) == list(range(10))
    assert len({tuple(order(*which)) for which in ((0, 0), (0, 1), (1, 0))}) == 3
    assert order() != sorted(order())


def test_workers_that_stay_alive_see_the_epoch(shards):
    stream = data.CcmIterableDataset(shards, model=WEIGHTS, shuffle=10)
    loader = DataLoader(stream, None, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append(numbers(loader))
    assert orders[0] == orders[2] != orders[1]


def test_datasets_can_be_pickled(shards):
    for kind in (data.CcmDataset, data.CcmIterableDataset):
        again = pickle.loads(pickle.dumps(kind(shards, model=WEIGHTS)))
        assert numbers([next(iter(again))]) == [0]


def test_damaged_pictures_are_named(folder, tmp_path):
    path = write_shard(tmp_path / "a.tar", range(3))
    content = path.read_bytes()
    at = content.index(coded(1)) + len(coded(1)) - 3
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    dataset = data.CcmDataset(path, model=WEIGHTS)
    assert numbers(dataset.__getitems__([0, 2])) == [0, 2]
    with pytest.raises(errors.DamagedError, match=r"^part/001 in .*a\.tar: the checksum"):
        dataset.__getitems__([0, 1, 2])
    stream = data.CcmIterableDataset(path, model=WEIGHTS)
    with pytest.raises(errors.DamagedError, match="part/001"):
        list(stream)
    with pytest.warns(errors.PictureWarning, match="part/001"):
        assert numbers(data.CcmIterableDataset(path, model=WEIGHTS, errors="skip")) == [0, 2]
    (tmp_path / "cut.ccm").write_bytes(coded(0)[:-1])
    with pytest.raises(errors.DamagedError, match=r"^.*cut\.ccm: "):
        data.CcmDataset(tmp_path / "cut.ccm", model=WEIGHTS)[0]


def headers(content):
    return [k for k in range(0, len(content), 512) if content[k : k + 5] == b"part/"]


@pytest.mark.parametrize("damage", ["cut in a header", "cut in a member", "a damaged header"])
def test_damaged_shards_are_errors_and_the_rest_goes_on(tmp_path, damage):
    first, _ = (write_shard(tmp_path / f"{k}.tar", range(3 * k, 3 * k + 3)) for k in range(2))
    content = bytearray(first.read_bytes())
    at = headers(content)[6]  # of the third picture
    if damage == "a damaged header":
        content[at + 150] ^= 0x55  # its checksum
    first.write_bytes(content[: at + {"cut in a header": 100, "cut in a member": 700}.get(damage, len(content))])
    with pytest.raises(tarfile.ReadError, match=r"0\.tar"):
        data.CcmDataset(tmp_path, model=WEIGHTS)
    with pytest.raises(tarfile.ReadError):
        list(data.CcmIterableDataset(tmp_path, model=WEIGHTS))
    with pytest.warns(errors.PictureWarning, match=r"left out: .*0\.tar"):
        found = numbers(data.CcmIterableDataset(tmp_path, model=WEIGHTS, errors="skip"))
    assert [k for k in found if k != 1] == [0, 3, 4, 5]


def test_arguments(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="none"):
        data.CcmDataset(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no \.ccm file"):
        data.CcmDataset(tmp_path)
    for wrong in ({"errors": "none"}, {"rank": 1}, {"rank": 2, "world_size": 2}, {"shuffle": -1}):
        with pytest.raises(ValueError):
            data.CcmIterableDataset(folder, **wrong)
    with pytest.raises(AttributeError, match="nothing"):
        data.nothing  # noqa: B018 - it raises


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves them to the collector
def test_webdataset_handler(shards):
    wds = pytest.importorskip("webdataset")
    urls = sorted(map(str, shards.iterdir()))
    for output in ("numpy", "torch", "pil"):
        decoder = functools.partial(data.webdataset_decoder, output=output, model=WEIGHTS)
        found = list(wds.WebDataset(urls, shardshuffle=False).decode(decoder))
        assert [sample["cls"] for sample in found] == list(range(10))  # webdataset's own handler
        for k, sample in enumerate(found):
            image = sample["ccm"].permute(1, 2, 0) if output == "torch" else sample["ccm"]
            assert np.array_equal(np.asarray(image), pixels(k).permute(1, 2, 0))
    with pytest.raises(ValueError, match="output"):
        data.webdataset_decoder("ccm", coded(0), "jax")


def test_hugging_face_datasets(folder, monkeypatch):
    """The recipe: the Pillow plugin, and an Image feature over paths or bytes."""
    datasets = pytest.importorskip("datasets")
    import ccm_fast.interop.pillow

    monkeypatch.setattr(ccm_fast.interop.pillow.CcmImageFile, "model", WEIGHTS)
    paths = sorted(map(str, folder.rglob("*.ccm")))
    by_path = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    by_bytes = datasets.Dataset.from_dict(
        {"image": [{"bytes": coded(k), "path": None} for k in range(7)]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    for dataset in (by_path, by_bytes):
        assert np.array_equal(np.asarray(dataset[2]["image"]), pixels(2).permute(1, 2, 0))
        batch = dataset.with_format("torch")[:4]["image"]
        assert torch.equal(torch.stack(list(batch)), torch.stack([pixels(k) for k in range(4)]))


def test_image_folders_of_torchvision(folder):
    try:
        from torchvision.datasets import DatasetFolder
    except (ImportError, RuntimeError) as why:  # PyPI's torchvision does not load beside a torch without CUDA
        pytest.skip(f"torchvision does not load: {why}")
    loader = functools.partial(data.load_image, model=WEIGHTS)
    found = list(DatasetFolder(folder, loader, extensions=(".ccm",)))
    assert [label for _, label in found] == [0, 0, 0, 1, 1, 1, 1]
    assert np.array_equal(found[5][0], pixels(5).permute(1, 2, 0))


def test_a_decoder_without_torch(folder):
    code = f"""
import sys
from ccm_fast import data
path = {str(folder / "a/1.ccm")!r}
picture = data.load_image(path, model={str(WEIGHTS)!r})
assert (data.webdataset_decoder("x.ccm", open(path, "rb").read(), model={str(WEIGHTS)!r}) == picture).all()
assert data.webdataset_decoder("cls", b"1") is None
print(picture.shape, [name for name in sys.modules if name.partition(".")[0] == "torch"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.stdout, done.stderr) == ("(24, 32, 3) []\n", "")
