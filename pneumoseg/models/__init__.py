"""The two networks: built, partly frozen, saved and loaded."""
