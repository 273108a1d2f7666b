import pandas as pd
import pytest


@pytest.fixture
def history_of():
    """A history with these validation MCCs."""

    def make(values):
        epochs = range(1, len(values) + 1)
        columns = {"learning_rate": 0.1, "loss": 1.0, "val_loss": 2.0, "mcc": 0.5, "seconds": 4.0}
        return pd.DataFrame({"epoch": epochs, **columns, "val_mcc": values})

    return make
