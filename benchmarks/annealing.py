"""Cost of cosine annealing per training step on JAX, in a network with as many variables as the paper's segmenter.

The layers are tiny, so that a step consists of the handling of its variables, as on a GPU that waits for the processor.
The baseline is the same training with a constant learning rate; next to it, a callback that sets the optimizer's rate
before each step.

Run with: python benchmarks/annealing.py
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import statistics
import time

import keras
import numpy as np

from pneumoseg.callbacks.cosine_annealing import CosineAnnealing, annealed_rate

LAYERS, STEPS, ROUNDS = 143, 50, 9  # with Adam about 2,000 variables; the segmenter and its Adam have 2,009


class SetInOptimizer(keras.callbacks.Callback):
    """Set the optimizer's rate before each step."""

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.model.optimizer.learning_rate = annealed_rate(batch / STEPS, 1e-3, 2)


def network() -> keras.Model:
    inputs = outputs = keras.Input((4,))
    for _ in range(LAYERS):
        outputs = keras.layers.BatchNormalization()(keras.layers.Dense(4)(outputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=True)
    return model


def main() -> None:
    model, data = network(), np.zeros((STEPS, 4), np.float32)
    trainings: dict[str, list[keras.callbacks.Callback]] = {
        "constant rate": [],
        "CosineAnnealing": [CosineAnnealing(1e-3, 2)],
        "set in the optimizer": [SetInOptimizer()],
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(ROUNDS + 1):  # the first compiles
        for name, callbacks in trainings.items():
            begin = time.process_time()
            model.fit(data, data, batch_size=1, verbose=0, callbacks=callbacks)
            seconds[name].append((time.process_time() - begin) / STEPS)
    print(f"{len(model.variables) + len(model.optimizer.variables)} variables, {ROUNDS} rounds of {STEPS} steps")
    for name, measured in seconds.items():
        ratios = [one / base for one, base in zip(measured[1:], seconds["constant rate"][1:], strict=True)]
        milliseconds = statistics.median(measured[1:]) * 1000
        print(f"{name:22} {milliseconds:6.1f} ms of processor; ratios {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
