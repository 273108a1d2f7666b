"""The command line."""

# In the order in which the help lists their commands.
from pneumoseg.cli import data, training, prediction, export, predict, pacs, listen, evaluation, reproduce  # isort: skip
from pneumoseg.cli.app import app, main

__all__ = [
    "app",
    "data",
    "evaluation",
    "export",
    "listen",
    "main",
    "pacs",
    "predict",
    "prediction",
    "reproduce",
    "training",
]
