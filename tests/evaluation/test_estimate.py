"""Estimates in tables, and the columns that they are written as."""

import io
import math

import numpy as np
import pandas as pd

from pneumoseg.evaluation.estimate import Estimate, estimates, table_columns


def test_values_and_bounds_are_joined_in_order():
    cells = estimates(np.array([0.5, 1.0]), [0.25, math.nan], (0.75, math.nan))
    assert cells[0] == Estimate(0.5, 0.25, 0.75)
    assert (cells[1].value, math.isnan(cells[1].low), math.isnan(cells[1].high)) == (1.0, True, True)
    assert all(type(number) is float for cell in cells for number in (cell.value, cell.low, cell.high))


def test_a_notebook_shows_score_and_interval():
    (line,) = pd.DataFrame({"dice": [Estimate(0.5, 0.25, 0.75)]}).to_string(header=False, index=False).splitlines()
    assert line.strip() == "0.5000 (0.2500 to 0.7500)"


def test_columns_of_a_table():
    table = pd.DataFrame(
        {"images": [3, 4], "dice": estimates([0.5, 1], [0.25, 0.5], [0.75, math.nan]), "by": ["view", "sex"]},
        index=["a", "b"],
    )
    flat = table_columns(table)
    assert flat.columns.tolist() == ["images", "dice", "dice_low", "dice_high", "by"]
    assert flat.index.tolist() == ["a", "b"]
    assert flat["images"].tolist() == [3, 4]
    assert flat["dice_low"].tolist() == [0.25, 0.5]
    assert flat["dice"].dtype == flat["dice_high"].dtype == np.float64
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(flat.to_csv()), index_col=0), flat)


def test_tables_without_estimates_and_without_rows_stay_as_they_are():
    for table in (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pd.DataFrame(columns=["value"])):
        pd.testing.assert_frame_equal(table_columns(table), table)
