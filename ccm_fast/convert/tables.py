"""Parquet tables with a column of pictures: bytes, or Hugging Face's struct of bytes and path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .recode import Recoder

if TYPE_CHECKING:
    from .units import Report

__all__ = ["convert_table"]


def convert_table(path: Path, out: BinaryIO, recoder: Recoder, report: Report, column: str | None) -> None:
    """Write a table with new pictures in the place of the old ones, a row group at a time; all else stays.

    Pictures that fail, nulls and rows whose bytes are elsewhere (a path alone) stay as they are.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: no column of pictures, or a damaged file.
    """
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as why:
        raise ImportError("Parquet needs pyarrow: pip install 'ccm-fast[parquet]'") from why
    with parquet.ParquetFile(path) as table:
        schema = table.schema_arrow
        column = _column(schema, column)
        place = schema.get_field_index(column)
        codec = table.metadata.row_group(0).column(0).compression if table.num_row_groups else "SNAPPY"
        with parquet.ParquetWriter(out, schema, compression=codec) as writer:
            row = 0
            for k in range(table.num_row_groups):
                group = table.read_row_group(k, use_threads=False)
                new = _converted(group.column(place), recoder, report, row)
                writer.write_table(group.set_column(place, schema.field(place), new), row_group_size=len(group))
                row += len(group)


def _holds_pictures(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_pictures(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _column(schema: Any, name: str | None) -> str:
    """The column's name. Raises ValueError if there is none, or a choice."""
    able = [field.name for field in schema if _holds_pictures(field.type)]
    wanted = name or "image"
    if wanted in able:
        return wanted
    if name is None and len(able) == 1:
        return able[0]
    raise ValueError(f"no column {wanted!r} of bytes in the table; such are: {', '.join(able) or 'none'}")


def _converted(values: Any, recoder: Recoder, report: Report, row: int) -> Any:
    """The column's new values, of the same type."""
    import pyarrow

    found = []
    for k, value in enumerate(values.to_pylist()):
        data = value["bytes"] if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) else None
        new = None if data is None else report.convert(recoder, path or f"row {row + k}", data)
        if new is None:
            found.append(value)
        elif isinstance(value, dict):
            renamed = {"path": f"{path.rpartition('.')[0] or path}.{recoder.to}"} if path else {}
            found.append({**value, "bytes": new, **renamed})
        else:
            found.append(new)
    return pyarrow.chunked_array([pyarrow.array(found, type=values.type)])
