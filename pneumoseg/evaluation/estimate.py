"""Scores with their confidence intervals, as cells of a table."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import pandas as pd


@dataclass(frozen=True)
class Estimate:
    """A score and the bounds of its confidence interval.

    Attributes:
        value: The score, NaN where it is not defined.
        low: The lower bound, NaN where there is no interval.
        high: The upper bound, NaN where there is no interval.

    Example:
        >>> estimate = Estimate(0.8, low=0.7, high=0.9)
        >>> estimate.high
        0.9
        >>> print(estimate)
        0.8000 (0.7000 to 0.9000)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the score and its interval as a table in a notebook shows them."""
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


def estimates(values: Iterable[float], lows: Iterable[float], highs: Iterable[float]) -> list[Estimate]:
    """Join scores and their bounds, one estimate for each.

    Example:
        >>> estimates([0.8, 0.5], [0.7, 0.4], [0.9, 0.6])
        [Estimate(value=0.8, low=0.7, high=0.9), Estimate(value=0.5, low=0.4, high=0.6)]
    """
    return [Estimate(*map(float, cell)) for cell in zip(values, lows, highs, strict=True)]


def table_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Split each column of estimates into three columns of numbers, as a CSV file or a terminal shows them.

    Args:
        table: Any table; a column of estimates holds nothing else.

    Returns:
        The same rows. A column `x` of estimates becomes `x`, `x_low` and `x_high`; other columns stay as they are.

    Example:
        >>> table_columns(pd.DataFrame({"images": [9], "dice": [Estimate(0.8, 0.7, 0.9)]})).to_dict("records")
        [{'images': 9, 'dice': 0.8, 'dice_low': 0.7, 'dice_high': 0.9}]
    """
    columns: dict[str, pd.Series] = {}
    for name, column in table.items():
        if len(column) and isinstance(column.iloc[0], Estimate):
            parts = zip(("", "_low", "_high"), zip(*map(astuple, column), strict=True), strict=True)
            columns |= {f"{name}{suffix}": pd.Series(part, table.index, float) for suffix, part in parts}
        else:
            columns[str(name)] = column
    return pd.DataFrame(columns, index=table.index)
