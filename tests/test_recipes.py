"""The Python blocks of docs/datasets.md run, in order, each by itself."""

import importlib.util
import re
from pathlib import Path

import pytest
import tiny
from PIL import Image
from test_data import add_member

import ccm_fast

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/datasets.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
OPTIONAL = ("torchvision", "webdataset", "datasets", "daft", "zarr")

pytestmark = [
    # Newer Pythons warn where a process with threads is forked; webdataset leaves files to the collector.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]


def needs(block):
    return re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folders that the document speaks of."""
    import tarfile

    files = ccm_fast.encode_batch([tiny.photo(48, 64, k) for k in range(4)], effort=1)
    (tmp_path / "shards").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "coded" / name).mkdir(parents=True)
        with tarfile.open(tmp_path / "shards" / f"{name}.tar", "w") as shard:
            for k, data in enumerate(files):
                (tmp_path / "coded" / name / f"{k}.ccm").write_bytes(data)
                add_member(shard, f"{name}/{k}.ccm", data)
    Image.fromarray(tiny.photo(48, 64)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(needs(block)))
def test_recipe(here, block):
    for name in set(OPTIONAL) & set(needs(block)):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        if name == "torchvision":
            try:
                import torchvision.datasets  # noqa: F401
            except (RuntimeError, ModuleNotFoundError) as why:  # PyPI's does not load beside a torch without CUDA
                pytest.skip(f"torchvision does not load: {why}")
    module = {"__name__": "recipe"}
    exec(compile(block, str(DOCUMENT), "exec"), module)
