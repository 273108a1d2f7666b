"""Data parallelism: the images of each batch are shared out among all devices, on Keras' JAX backend.

A step on several devices computes what a step on one device computes, for any number of images and of devices. The
network's variables are on all devices. A batch comes whole to each of them, as bytes, which takes little time and
memory. Within the compiled step each device then keeps its images alone. XLA divides all that follows, and sums over
the devices wherever the program sums over the batch: in losses that pool their batch, batch normalization, metrics and
gradients. It allows for batches that the number of devices does not divide.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

_log = logging.getLogger(__name__)


@contextmanager
def all_devices() -> Iterator[int]:
    """Compute on all devices of the JAX backend while the context lasts.

    Networks, losses' states and optimizers must be made within it, and networks given to `share_batches`. With a single
    device, or on another backend, the context does nothing.

    Yields:
        The number of devices.

    Example:
        >>> with all_devices():  # doctest: +SKIP
        ...     model = share_batches(build_classifier("compact", 64, weights=None))
        ...     model.compile("adam", "binary_crossentropy")
        ...     model.fit(images, labels, batch_size=16)  # of which each of four devices gets four
    """
    devices = keras.distribution.list_devices() if keras.backend.backend() == "jax" else [""]
    if len(devices) == 1:
        yield 1
        return
    with _WholeBatches(devices=devices, auto_shard_dataset=False).scope():
        yield len(devices)


@contextmanager
def on_one_device() -> Iterator[None]:
    """Compute on one device of this process alone while the context lasts, within `all_devices` too.

    Example:
        >>> with all_devices(), on_one_device():  # doctest: +SKIP
        ...     model = build_classifier("compact", 64, weights=None)
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def is_first_process() -> bool:
    """Return whether this process is the only one, or the first of those that train together within `all_devices`.

    Example:
        >>> is_first_process()
        True
    """
    if not spans_processes():
        return True
    import jax

    return bool(jax.process_index() == 0)


def share_batches(model: keras.Model) -> keras.Model:
    """Share out the images of each batch in `fit`, `evaluate` and `predict` of a network among all devices.

    Args:
        model: Network made within `all_devices`. Outside of it nothing is changed.

    Returns:
        The same network.

    Example:
        >>> model = share_batches(build_segmenter(weights=None))  # doctest: +SKIP
    """
    if keras.distribution.distribution() is None:
        return model
    train_step, test_step, predict_step = model.train_step, model.test_step, model.predict_step

    def predict(state: Any, data: Any) -> Any:
        outputs, state = predict_step(state, shared_out(data))
        # The host can fetch an output that is on all devices, whatever its length.
        return _laid_out(outputs, None), state

    model.train_step = lambda state, data: train_step(state, shared_out(data))
    model.test_step = lambda state, data: test_step(state, shared_out(data))
    model.predict_step = predict
    return model


def warn_of_idle_devices(batch_size: int, devices: int) -> None:
    """Log a warning if the devices cannot share a batch evenly.

    Args:
        batch_size: Number of images per batch, of all devices together.
        devices: Number of devices.

    Example:
        >>> warn_of_idle_devices(batch_size=8, devices=4)
    """
    if batch_size % devices:
        most = math.ceil(batch_size / devices)
        _log.warning(
            f"BATCHES OF {batch_size} IMAGES AMONG {devices} DEVICES: some get up to {most} images, others fewer or "
            f"none, and wait. Set batch_size to a multiple of {devices}, or show fewer devices (CUDA_VISIBLE_DEVICES)"
        )


def shared_out(batch: Any) -> Any:
    """Share out the images of a batch among all devices, within a compiled function.

    Args:
        batch: Arrays, (n, ...) each, nested in tuples, with None where there is none.

    Returns:
        The same arrays, of which each device has its part; unchanged outside of `all_devices`.

    Example:
        >>> jax.jit(lambda images: network(shared_out(images)))  # doctest: +SKIP
    """
    import jax

    if keras.distribution.distribution() is None:
        return batch
    return _laid_out(jax.tree.map(_with_rows_of_each_process, batch), keras.distribution.distribution().batch_dim_name)


def rows_of_this_process(images: int) -> range:
    """Return the positions in a batch of the images that the devices of this process compute with.

    The others need not be loaded: the process may pass zeros in their place.

    Args:
        images: Number of images in the batch.

    Example:
        >>> rows_of_this_process(8)
        range(0, 8)
    """
    import jax

    if not spans_processes():
        return range(images)
    devices = keras.distribution.distribution().device_mesh.backend_mesh.devices.tolist()
    own = [number for number, device in enumerate(devices) if device.process_index == jax.process_index()]
    each = math.ceil(images / len(devices))
    return range(min(own[0] * each, images), min((own[-1] + 1) * each, images))


def spans_processes() -> bool:
    """Return whether the devices are those of several processes, within `all_devices`.

    Example:
        >>> spans_processes()
        False
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return False
    return len({device.process_index for device in distribution.device_mesh.backend_mesh.devices}) > 1


def _with_rows_of_each_process(array: Any) -> Any:
    """Return an array of which each process had passed its own rows alone, with the rows of all.

    To XLA an array on all devices is the same on all of them, and it may read any row from any of them.
    """
    import jax

    if not spans_processes():
        return array
    distribution = keras.distribution.distribution()
    mesh, axis, rows = distribution.device_mesh.backend_mesh, distribution.batch_dim_name, len(array)
    each = math.ceil(rows / mesh.size)
    padding = [(0, each * mesh.size - rows)] + [(0, 0)] * (array.ndim - 1)

    def own(array: Any) -> Any:
        first = jax.lax.axis_index(axis) * each
        return jax.lax.dynamic_slice_in_dim(jax.numpy.pad(array, padding), first, each)

    everywhere, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(axis)
    return jax.shard_map(own, mesh=mesh, in_specs=everywhere, out_specs=divided)(array)[:rows]


def _laid_out(arrays: Any, axis: str | None) -> Any:
    import jax

    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, layout), arrays)


class _WholeBatches(keras.distribution.DataParallel):
    """Keras' data parallelism, but each batch comes whole to each device.

    Keras' own divides each batch before the step, which fails where the number of devices does not divide it.
    """

    def get_data_layout(self, data_shape: tuple[int, ...]) -> keras.distribution.TensorLayout:
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
