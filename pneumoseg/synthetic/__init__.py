"""Generator of a small random data set in the competition's format, for the demo and the tests."""

from pneumoseg.synthetic.case import SyntheticCase, generate_case
from pneumoseg.synthetic.dataset import write_dataset

__all__ = ["SyntheticCase", "generate_case", "write_dataset"]
