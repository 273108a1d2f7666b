"""Settings and a manifest to a run."""
