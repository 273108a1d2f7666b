"""Curves while a run trains."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pneumoseg.report.live_curves import LiveCurves
from pneumoseg.training.run import Run


def test_curves_are_there_after_each_epoch(tmp_path, history_of):
    callback = LiveCurves(Run(tmp_path), "mcc")
    for epochs in (1, 2):
        history_of([0.1, 0.2][:epochs]).to_csv(tmp_path / "history.csv", index=False)
        callback.on_epoch_end(epochs - 1)
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path / "tensorboard/curves"), {"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("curves")] == [0, 1]
