"""The columns of every table of answers: one schema for CSV, JSON lines and Parquet. Imports nothing heavy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

SHARE: Final = "p_"
"""Start of the names of columns of probabilities."""


class Column(NamedTuple):
    """A column of every table of answers."""

    name: str
    kind: Literal["text", "texts", "number", "share", "whole", "flag"]
    """texts: a list in Parquet and JSON lines, JSON in CSV; share: a number from 0 to 1, such as a probability; flag: a
    truth value, true or false in CSV."""

    @property
    def arrow(self) -> pa.DataType:
        """Its type in Parquet."""
        import pyarrow as pa

        plain = {"text": pa.string(), "whole": pa.int64(), "flag": pa.bool_(), "texts": pa.list_(pa.string())}
        return plain.get(self.kind, pa.float64())

    def in_csv(self, value: Any) -> Any:
        """Write a value as a cell of CSV."""
        return json.dumps(value, ensure_ascii=False) if self.kind in ("texts", "flag") and value is not None else value
