"""Entry point of `python -m pneumoseg`."""

from pneumoseg.cli import main

main()
