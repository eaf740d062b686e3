"""PyTorch datasets over folders of .ccm files and tar shards."""

from __future__ import annotations

import os
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..batches import decode_arrays
from ..errors import CcmFastError, PictureWarning
from ..reading import read_bytes
from ..region import Wanted
from ..stream.limits import MAX_PIXELS, check_limit
from .decoding import worker_threads
from .sources import Sample, find_sources, is_shard, samples_of

__all__ = ["CcmDataset", "CcmIterableDataset"]

Sources: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Transform: TypeAlias = Callable[[dict[str, Any]], Any]


class _Reader:
    """Reads and decodes samples. The same options for both datasets."""

    def __init__(
        self,
        transform: Transform | None,
        model: str | os.PathLike[str] | None,
        orient: bool,
        region: Wanted,
        threads: int | None,
        max_pixels: int | None,
    ):
        check_limit(max_pixels)
        self.transform, self.threads, self.max_pixels = transform, threads, max_pixels
        self.options: dict[str, Any] = {"model": model, "orient": orient, "max_pixels": max_pixels}
        self.options["region"] = region

    def __call__(self, samples: Sequence[Sample]) -> list[Any]:
        """What the samples hold: ``key``, ``image``, and a shard's other members by extension.

        Raises:
            CcmFastError: a picture is damaged; the message says which.
            OSError, EOFError: a file cannot be read.
        """
        read: list[dict[str, Any]] = []
        data = []
        for sample in samples:
            parts = {extension: place.read(sample.source) for extension, place in sample.parts.items()}
            image = [extension for extension in parts if extension.rpartition(".")[2] == "ccm"]
            data.append(parts.pop(image[0]) if image else read_bytes(sample.source, self.max_pixels))
            read.append({"key": sample.key, **parts})
        try:
            pictures = decode_arrays(data, threads=worker_threads(self.threads), **self.options)
        except CcmFastError as error:
            if len(samples) > 1:  # one by one, to say which
                return [one for sample in samples for one in self([sample])]
            (sample,) = samples
            why = str(error).removeprefix("picture 0: ")
            raise type(error)(
                f"{sample.key} in {sample.source}: {why}" if sample.parts else f"{sample.source}: {why}"
            ) from error
        for found, picture in zip(read, pictures, strict=True):
            found["image"] = torch.from_numpy(picture).permute(2, 0, 1)
        return [one if self.transform is None else self.transform(one) for one in read]


class CcmDataset(Dataset[Any]):
    """A map-style dataset: every picture of folders and tar shards by its number, in the order of their names.

    A sample is a dict: ``image``, uint8 [3, H, W]; ``key``, its path below the folder without suffix, or its name in
    the shard; and the bytes of a shard's other members of that name by their extension, such as ``cls`` or ``json``.
    Shards are read once when this is made, their headers only, and must not be compressed.

    A DataLoader's worker processes may be forked or spawned; each decodes with one thread. Without workers all cores
    decode the pictures of a batch side by side.

    Args:
        sources: a folder, a .ccm file or a tar archive, or several of them; folders are searched to their depths.
        transform: called with each sample; its result takes the sample's place.
        model: as for :func:`ccm_fast.decode_batch`; None: the shipped model that a file names.
        orient: turn pictures as their EXIF orientation asks for.
        region: decode a part of each alone, as for :func:`ccm_fast.decode_batch`.
        threads: None: one in worker processes, elsewhere as many as there are cores.
        max_pixels: larger pictures are errors.

    Raises:
        FileNotFoundError: no such source, or no picture.
        tarfile.ReadError: a shard is damaged or compressed.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        transform: Transform | None = None,
        model: str | os.PathLike[str] | None = None,
        orient: bool = False,
        region: Wanted = None,
        threads: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
    ):
        self._reader = _Reader(transform, model, orient, region, threads, max_pixels)
        self._samples = [sample for source in find_sources(sources) for sample in samples_of(*source)]

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def keys(self) -> list[str]:
        """The key of every sample."""
        return [sample.key for sample in self._samples]

    def __getitem__(self, index: int) -> Any:
        return self._reader([self._samples[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The samples of a batch, which DataLoader asks for at once."""
        return self._reader([self._samples[index] for index in indices])


class CcmIterableDataset(IterableDataset[Any]):
    """Samples one after another, read in the order in which they lie; nothing is listed but files and shards.

    Samples are those of :class:`CcmDataset`. Every process of a distributed job and each of its workers gets its part:
    whole shards where there are at least as many as workers in all, else every n-th sample. For the same sources,
    seed, epoch and numbers of processes and workers the order is the same.

    Args:
        sources: as for :class:`CcmDataset`.
        transform: likewise.
        shuffle: samples that wait while one of them is drawn; shards and files are then read in random order, too. 0:
            the order of names.
        seed: of that order.
        rank: number of this process; None: as torch.distributed says, else 0.
        world_size: number of processes; None: likewise, else 1.
        errors: "raise"; "skip": damaged pictures are left out, and the rest of damaged shards, with a PictureWarning.
        model: as for :class:`CcmDataset`.
        orient: likewise.
        region: likewise.
        threads: likewise.
        max_pixels: likewise.

    Raises:
        FileNotFoundError: no such source, or nothing in it.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        transform: Transform | None = None,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        errors: str = "raise",
        model: str | os.PathLike[str] | None = None,
        orient: bool = False,
        region: Wanted = None,
        threads: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
    ):
        if errors not in ("raise", "skip"):
            raise ValueError(f"errors is 'raise' or 'skip', not {errors!r}")
        place = None if rank is None or world_size is None else (rank, world_size)
        if (rank is None) != (world_size is None) or (place is not None and not 0 <= place[0] < place[1]):
            raise ValueError(f"rank {rank} of {world_size} processes")
        if shuffle < 0:
            raise ValueError(f"shuffle is a number of samples, not {shuffle}")
        self._reader = _Reader(transform, model, orient, region, threads, max_pixels)
        self._sources = find_sources(sources)
        self._shuffle, self._seed, self._errors = shuffle, seed, errors
        self._place = place
        self._epoch: torch.Tensor = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers that stay alive see it change

    def set_epoch(self, epoch: int) -> None:
        """The number that, with the seed, makes the next pass's order."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng((self._seed, int(self._epoch)))
        sources = [self._sources[k] for k in order.permutation(len(self._sources))] if self._shuffle else self._sources
        share, shares = self._share()
        kinds = {is_shard(source) for source, _ in sources}
        whole = len(kinds) == 1 and len(sources) >= shares  # .ccm files are dealt out as shards are
        samples = self._samples(sources[share::shares] if whole else sources)
        if not whole:
            samples = (sample for k, sample in enumerate(samples) if k % shares == share)
        if self._shuffle:
            samples = _shuffled(samples, self._shuffle, np.random.default_rng((self._seed, int(self._epoch), share)))
        for sample in samples:
            try:
                (found,) = self._reader([sample])
            except (CcmFastError, OSError, EOFError) as error:
                self._failed(error)
                continue
            yield found

    def _share(self) -> tuple[int, int]:
        """Number of this worker among all of all processes, and how many those are."""
        if self._place is not None:
            rank, world_size = self._place
        elif torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = 0, 1
        worker = get_worker_info()
        if worker is None:
            return rank, world_size
        return rank * worker.num_workers + worker.id, world_size * worker.num_workers

    def _samples(self, sources: list[tuple[str, str]]) -> Iterator[Sample]:
        for source in sources:
            try:
                yield from samples_of(*source)
            except (tarfile.TarError, OSError) as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._errors == "raise":
            raise error
        warnings.warn(f"left out: {error}", PictureWarning, stacklevel=2)


def _shuffled(samples: Iterator[Sample], size: int, order: np.random.Generator) -> Iterator[Sample]:
    """The samples, each drawn from those of the next ``size`` that are left."""
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) >= size:
            k = int(order.integers(len(waiting)))
            waiting[k], waiting[-1] = waiting[-1], waiting[k]
            yield waiting.pop()
    for k in order.permutation(len(waiting)):
        yield waiting[k]
