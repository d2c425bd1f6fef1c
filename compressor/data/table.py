"""A table as it was read, with enough of its origin to name a bad row in an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

_ROWS_NAMED = 3


def shown(value: object) -> str:
    """A cell as a person would write it: strings in quotes, numbers without numpy's type."""
    return repr(value.item() if isinstance(value, np.generic) else value)


@dataclass(frozen=True)
class Table:
    """Rows of one split.

    Attributes:
        frame: the columns; its index numbers the rows as a person would find them in the file, from 1.
        place: the file or hub split that errors name.
        unit: what the index counts: line (text files) or row.
        label_names: per column of a hub data set that declares them, its label names in order.
    """

    frame: pd.DataFrame
    place: str
    unit: str = "row"
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def keep(self, rows: np.ndarray | pd.Series) -> Table:
        """The rows of a boolean mask, with their numbers."""
        return replace(self, frame=self.frame[rows])

    def where_is(self, rows: np.ndarray | pd.Series) -> str:
        """The rows of a boolean mask in words: 'line 7', or 'lines 7, 9, 12 and 40 more'."""
        numbers = self.frame.index[np.asarray(rows, dtype=bool)].tolist()
        named = ", ".join(str(number) for number in numbers[:_ROWS_NAMED])
        more = f" and {len(numbers) - _ROWS_NAMED} more" if len(numbers) > _ROWS_NAMED else ""
        return f"{self.unit}{'s' if len(numbers) > 1 else ''} {named}{more}"
