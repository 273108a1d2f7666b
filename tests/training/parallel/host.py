"""The command line as one process of a test: it keeps the weights after each epoch, and may kill itself in the middle.

Usage: python -m tests.training.parallel.host FILE EPOCH ARGUMENTS..., where EPOCH is 0 or the epoch to die in.
"""

import functools
import os
import signal
import sys

import numpy as np

from pneumoseg.cli import main
from pneumoseg.report import live_curves


def recorder(file, killed_in):
    """Return a function that makes a Keras callback, which it defines only when a training begins."""

    def make(run):
        import keras

        # As in the fixture `large_epsilon`. The optimizer of the first phase is not made yet.
        keras.optimizers.Adam = functools.partial(keras.optimizers.Adam, epsilon=1e-2)

        class Recorder(keras.callbacks.Callback):
            epoch, kept = 0, {}

            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch + 1

            def on_train_batch_end(self, batch, logs=None):
                if self.epoch == killed_in and batch == 1:
                    os.kill(os.getpid(), signal.SIGKILL)

            def on_epoch_end(self, epoch, logs=None):
                weights = {f"{epoch + 1} {number:03}": w for number, w in enumerate(self.model.get_weights())}
                self.kept.update(weights)
                np.savez(file, **self.kept)

        return Recorder()

    return make


if __name__ == "__main__":
    file, killed_in, *sys.argv[1:] = sys.argv[1:]
    live_curves.live_curves = lambda task: recorder(file, int(killed_in))
    main()
