"""`pneumoseg train` on Keras' JAX backend: images per second of each epoch, compilation and memory.

Baseline: epochs that show one batch again and again, so that nothing is loaded, in the same training. The time of an
epoch's steps ends when all variables of the last step are there, and leaves out validation and checkpoints.

Run with: KERAS_BACKEND=jax python benchmarks/training_gpu.py EXPERIMENT MANIFEST RUN [--held 3 5]
Needs: pip install 'jax[cuda13]'
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tensorflow as tf

from pneumoseg.callbacks.epochwise_callbacks import EpochwiseCallbacks
from pneumoseg.cli import main as pneumoseg
from pneumoseg.training.engine import Engine


class Clock:
    """Times of one training."""

    def __init__(self) -> None:
        self.begin, self.images, self.is_training = 0.0, 0, False

    def begin_epoch(self, batches: tf.data.Dataset) -> None:
        self.images = int(batches.cardinality()) * int(next(iter(batches))[0].shape[0])

    def begin_steps(self) -> None:
        self.begin, self.is_training = time.perf_counter(), True

    def end_steps(self, callbacks: EpochwiseCallbacks) -> None:
        """Say the rate at the first hook that follows an epoch's last step."""
        if self.is_training:
            jax.block_until_ready([variable.value for variable in callbacks._model.variables])
            seconds, self.is_training = time.perf_counter() - self.begin, False
            print(f"{self.images} images in {seconds:.2f} s, {self.images / seconds:.1f} images/s, {memory()}")


def memory() -> str:
    found = jax.local_devices()[0].memory_stats() or {}
    now, peak = (found.get(name, 0) / 2**30 for name in ("bytes_in_use", "peak_bytes_in_use"))
    return f"{now:.2f} GiB, peak so far {peak:.2f} GiB"


def say_compilation(name: str, seconds: float, **_: Any) -> None:
    if name.endswith("backend_compile_duration") and seconds > 1:
        print(f"XLA: {seconds:.1f} s, {memory()}")


def watch(clock: Clock, held: list[int]) -> None:
    """Time every training of this process."""
    fit, begin = Engine.fit, EpochwiseCallbacks.on_epoch_begin

    def fit_watched(engine: Engine, epoch_batches: Callable[[int], tf.data.Dataset]) -> Any:
        def chosen(number: int) -> tf.data.Dataset:
            batches = epoch_batches(number)
            if number + 1 in held:
                batches = batches.take(1).cache().repeat(int(batches.cardinality()))
            clock.begin_epoch(batches)
            print(f"epoch {number + 1}{', one batch repeated' if number + 1 in held else ''}")
            return batches

        return fit(engine, chosen)

    def begin_watched(callbacks: EpochwiseCallbacks, *arguments: Any) -> None:
        begin(callbacks, *arguments)
        clock.begin_steps()

    def ending(name: str) -> Callable:
        hook = getattr(EpochwiseCallbacks, name)

        def end_watched(callbacks: EpochwiseCallbacks, *arguments: Any, **further: Any) -> None:
            clock.end_steps(callbacks)
            hook(callbacks, *arguments, **further)

        return end_watched

    Engine.fit, EpochwiseCallbacks.on_epoch_begin = fit_watched, begin_watched
    for name in ("on_test_begin", "on_epoch_end"):
        setattr(EpochwiseCallbacks, name, ending(name))
    jax.monitoring.register_event_duration_secs_listener(say_compilation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--held", type=int, nargs="*", default=[], help="epochs that show one batch again and again")
    options = parser.parse_args()
    watch(Clock(), options.held)
    command = ["train", options.experiment, "--manifest", options.manifest, "--out", options.run, "--backend", "jax"]
    sys.argv[1:] = [str(each) for each in command]
    pneumoseg()


if __name__ == "__main__":
    main()
