"""Callbacks for Keras trainings, one a file."""
