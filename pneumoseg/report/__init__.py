"""Reports of evaluations, charts, and figures of runs and predictions."""
