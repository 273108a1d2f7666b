"""A small data set in the competition's own format, painted from random numbers: for the demo and the tests."""

from pneumoseg.synthetic.case import SyntheticCase, draw_case
from pneumoseg.synthetic.dataset import write_dataset

__all__ = ["SyntheticCase", "draw_case", "write_dataset"]
