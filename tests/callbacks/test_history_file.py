"""What an epoch's row holds, and going on after some."""

import keras
import pytest

from pneumoseg.callbacks.history_file import HistoryFile


def train(path, epochs, first=0, done=0):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    history = HistoryFile(path, done)
    history.set_model(model)
    for epoch in range(first, epochs):
        history.on_epoch_begin(epoch)
        model.optimizer.learning_rate = 0.1  # as a plateau would, before the row is written
        history.on_epoch_end(epoch, {"loss": 1 / (epoch + 3)})
        model.optimizer.learning_rate = 0.5
    return history.table


def test_row_tells_the_rate_that_the_epoch_began_with(tmp_path):
    table = train(tmp_path / "h.csv", 2)
    assert table["epoch"].tolist() == [1, 2]
    assert table["learning_rate"].tolist() == [0.5, 0.5]


def test_goes_on_with_the_same_numbers_and_drops_what_was_not_kept(tmp_path):
    whole = train(tmp_path / "a.csv", 4)
    train(tmp_path / "b.csv", 3)
    resumed = train(tmp_path / "b.csv", 4, first=2, done=2)
    assert resumed["loss"].tolist() == whole["loss"].tolist()
    assert resumed["epoch"].tolist() == [1, 2, 3, 4]


def test_lost_rows_are_told(tmp_path):
    train(tmp_path / "h.csv", 2)
    with pytest.raises(ValueError, match=r"h\.csv has 2 of 3 epochs.*remove the run's folder"):
        HistoryFile(tmp_path / "h.csv", 3)
    with pytest.raises(ValueError, match=r"absent\.csv has 0 of 1 epochs"):
        HistoryFile(tmp_path / "absent.csv", 1)
