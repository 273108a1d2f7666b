"""Callbacks of a training: one class per module."""
