"""The two networks: building, freezing, saving and loading."""
