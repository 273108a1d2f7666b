"""Training: an experiment's settings and a manifest make a run."""
