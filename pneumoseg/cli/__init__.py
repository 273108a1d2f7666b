"""The command line."""

# In the order in which the help lists their commands.
from pneumoseg.cli import data, training, prediction, predict, pacs, listen, evaluation, reproduce  # isort: skip
from pneumoseg.cli.app import app, main

__all__ = ["app", "data", "evaluation", "listen", "main", "pacs", "predict", "prediction", "reproduce", "training"]
