"""Sweeps: one experiment, trained once for each combination of some settings' values."""
