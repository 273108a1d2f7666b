"""The command line: parses, loads, calls."""

# In the order in which the help lists their commands.
from pneumoseg.cli import data, training, prediction, evaluation  # isort: skip
from pneumoseg.cli.app import app, main

__all__ = ["app", "data", "evaluation", "main", "prediction", "training"]
