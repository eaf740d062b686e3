"""The same units by Ray Data: actors that load the model once, on the machines of a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from .recode import Recoder
from .units import Unit, convert_unit

__all__ = ["Converter", "run_on_ray"]


class Converter:
    """What an actor does with a batch of units."""

    def __init__(self, source: str, target: str, recoder: dict, column: str | None):
        self._recoder = Recoder(**recoder)
        self._recoder.check()  # loads the model
        self._options = (source, target, self._recoder, column)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """The lines of the units, as JSON."""
        units = [Unit(*map(str, fields)) for fields in zip(batch["name"], batch["target"], batch["kind"], strict=True)]
        return {"line": [json.dumps(convert_unit(unit, *self._options)) for unit in units]}


def run_on_ray(
    units: Sequence[Unit],
    source: str,
    target: str,
    recoder: Recoder,
    column: str | None,
    address: str,
    actors: int | None,
) -> Iterator[dict]:
    """Convert units on a cluster, and give their lines as they come.

    Ray starts what a dead actor or machine had begun again; outputs are replaced whole, by the same bytes.

    Args:
        units: what to do.
        source: a path that all machines reach; as for :func:`convert_unit`, as are the next three.
        target: likewise.
        recoder: likewise.
        column: likewise.
        address: of the cluster, "auto", or "local" for one that is started here and ends with this.
        actors: how many, of a core each, and of a GPU where the recoder works on one; None: as many as the cluster has.

    Raises:
        ImportError: ray is not installed.
        ConnectionError: there is no cluster.
    """
    try:
        import ray
    except ModuleNotFoundError as why:
        raise ImportError("--ray needs Ray: pip install 'ccm-fast[ray]'") from why
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpus = int(recoder.device != "cpu")
        actors = actors or max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
        done = (
            # Blocks of a few units: what a dead actor had begun is little.
            ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=min(len(units), 8 * actors))
            .map_batches(
                Converter,
                fn_constructor_args=(source, target, asdict(recoder), column),
                batch_size=1,
                num_cpus=1,
                num_gpus=gpus,
                concurrency=(1, actors),
            )
            .iter_rows()
        )
        yield from (json.loads(row["line"]) for row in done)
    finally:
        if started:
            ray.shutdown()
