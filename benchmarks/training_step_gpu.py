"""A training step of the paper's networks at full size on a GPU: seconds, memory and loss in each precision.

Baselines: the same step in float32; and in PyTorch timm's `legacy_xception`, the same architecture as the classifier,
and segmentation_models_pytorch's FPN with its `inceptionresnetv2`, close to the segmenter.
Keras runs on its JAX backend and TensorFlow is not needed. The images are random and stay in the GPU's memory, so that
no loader is measured. All layers are trainable and start from random weights.

A case is FRAMEWORK-NETWORK-PRECISION-BATCH, as in "keras-classifier-tf32-4", or "precisions", which shows what each
setting of JAX's matrix precision computes. Each case runs in a process of its own. Several processes build their
networks at the same time, but a lock gives the GPU to one of them: compilation and measurement never overlap.

Run with: python benchmarks/training_step_gpu.py [CASE ...] [--seconds 1800] [--output FILE]
Needs: pip install 'jax[cuda13]' keras segmentation-models efficientnet; for PyTorch's cases also torch, timm and
segmentation-models-pytorch.
"""

import argparse
import fcntl
import importlib
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

# As experiments/classifier_augmentation.yaml and segmenter_window_swa.yaml say, and the competition's images of
# training and validation: all of them, 80 / 20; for the segmenter the positives and as many negatives.
SIZE = {"classifier": 1024, "segmenter": 512}
RATE = {"classifier": 2e-4, "segmenter": 1e-4}
BATCH = {"classifier": 4, "segmenter": 8}
EPOCHS = {"classifier": 25, "segmenter": 37}
IMAGES = {"classifier": (9638, 2409), "segmenter": (4270, 1068)}
# JAX's matrix precision, Keras' dtype policy.
KERAS = {
    "float32": ("highest", "float32"),
    "tf32": (None, "float32"),
    "bfloat16": (None, "mixed_bfloat16"),
    "float16": (None, "mixed_float16"),
}
CASES = [
    "precisions",
    "keras-classifier-tf32-4",
    *(f"torch-classifier-{precision}-4" for precision in ("tf32", "bfloat16", "float32")),
    *(f"keras-{network}" for network in ("segmenter-tf32-8", "classifier-bfloat16-4", "segmenter-bfloat16-8")),
    *(f"keras-{network}" for network in ("classifier-float32-4", "segmenter-float32-8")),
    *(f"keras-{network}" for network in ("classifier-float16-4", "segmenter-float16-8")),
    *(f"keras-{network}" for network in ("classifier-bfloat16-16", "segmenter-bfloat16-32")),
    "torch-classifier-bfloat16-16",
    *(f"torch-segmenter-{precision}-8" for precision in ("tf32", "bfloat16")),
]
WARM_UP, TIMED = 5, 20


class Case:
    """One process: its command, its output file, and its turn on the GPU."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.output, self.steps = name, options.output, options.steps
        self.framework, self.network, self.precision, batch = name.split("-")
        self.batch, self.size = int(batch), options.size or SIZE[self.network]
        self.until, self.seconds = options.until, options.case_seconds

    def use_gpu_alone(self) -> None:
        """Wait until no other case uses the GPU, and start the clock of this one."""
        self._lock = gpu_lock(self.output)
        signal.alarm(2 * self.seconds)  # ends the process, even while XLA compiles
        self.until = min(self.until, time.time() + self.seconds)

    def say(self, text: str) -> None:
        say(self.output, f"{self.name}: {text}")

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Make 4 batches of uint8 noise; every other image has a brighter square, and the squares are the masks."""
        generator = np.random.default_rng(0)
        shape = (4, self.batch, self.size, self.size, 1)
        images = generator.integers(0, 200, shape, dtype=np.uint8)
        masks = np.zeros(shape, np.float32)
        side = self.size // 4
        for number in range(0, 4 * self.batch, 2):
            top, left = generator.integers(0, self.size - side, 2)
            masks.reshape(-1, *shape[2:])[number, top : top + side, left : left + side] = 1
        images += masks.astype(np.uint8) * 55
        labels = masks.max(axis=(2, 3)) if self.network == "classifier" else masks
        return list(zip(images, labels, strict=True))

    def train(self, step: Callable[[int], float], first: float, memory: Callable[[], str]) -> None:
        """Time steps, and go on to the loss of every 25th.

        Args:
            step: From a step's number to its loss, when all of its results are there.
            first: Seconds that the compilation took.
            memory: Returns a description of the memory used so far.
        """
        start = time.perf_counter()
        losses, seconds = [step(0)], []
        self.say(f"first step, compilation included, {first + time.perf_counter() - start:.1f} s, loss {losses[0]:.4f}")
        for number in range(1, self.steps):
            start = time.perf_counter()
            losses.append(step(number))
            seconds.append(time.perf_counter() - start)
            if number == WARM_UP + TIMED:
                self._say_timing(seconds[WARM_UP:], memory())
            if number > WARM_UP + TIMED and time.time() > self.until:
                break
        curve = ", ".join(f"{losses[n]:.4f}" for n in [*range(0, len(losses), 25), len(losses) - 1])
        later = statistics.median(seconds[-TIMED:])
        self.say(f"loss of every 25th of {len(losses)} steps and of the last: {curve}")
        self.say(f"median of the last {TIMED} steps {1000 * later:.1f} ms")

    def _say_timing(self, seconds: list[float], memory: str) -> None:
        median = statistics.median(seconds)
        spread = f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f}"
        self.say(
            f"step {1000 * median:.1f} ms (median of {len(seconds)}, {spread}), {self.batch / median:.1f} images/s, "
            f"{memory}; {self._hours(0, median):.2f} hours of training steps"
        )

    def say_prediction(self, predict: Callable[[int], Any], compilation: float) -> None:
        predict(0)
        seconds = []
        for number in range(TIMED):
            start = time.perf_counter()
            predict(number)
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        self.say(
            f"prediction {1000 * median:.1f} ms (median of {TIMED}), {self.batch / median:.1f} images/s, compiled in "
            f"{compilation:.1f} s; {self._hours(1, median):.2f} hours of validation"
        )

    def _hours(self, side: int, seconds: float) -> float:
        """Return the recipe's hours on one side of the split, its first epochs counted as if all were trainable."""
        return math.ceil(IMAGES[self.network][side] / self.batch) * EPOCHS[self.network] * seconds / 3600


def say(output: Path, text: str) -> None:
    print(text, flush=True)
    with output.open("a") as file:
        file.write(text + "\n")


def gpu_lock(output: Path) -> TextIO:
    """Wait until no other case uses the GPU; the lock holds while the returned file is open."""
    lock = output.with_suffix(".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def import_segmentation_models() -> None:
    """Import segmentation-models without TensorFlow.

    It looks for Keras in `tensorflow.keras`. Keras 3 carries that module itself, so that a stand-in for `tensorflow`
    which holds nothing else is enough. The stand-in exists during the import alone.
    """
    keras = importlib.import_module("keras._tf_keras.keras")
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.keras = keras  # type: ignore[attr-defined]
    sys.modules.update({"tensorflow": tensorflow, "tensorflow.keras": keras})
    from pneumoseg.models import segmenter

    segmenter._segmentation_models()
    del sys.modules["tensorflow"], sys.modules["tensorflow.keras"]


def keras_model(case: Case) -> Any:
    """Return the network of a case, compiled as an experiment does, with all of its layers trainable."""
    import keras

    from pneumoseg.losses import DiceLoss, FocalLoss
    from pneumoseg.models.classifier import build_classifier
    from pneumoseg.models.segmenter import build_segmenter

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(KERAS[case.precision][1])
    if case.network == "classifier":
        model, loss = build_classifier("xception", case.size, weights=None), keras.losses.BinaryCrossentropy()
    else:
        import_segmentation_models()
        model = build_segmenter("fpn", "inceptionresnetv2", case.size, weights=None)
        loss = FocalLoss() + DiceLoss(per_image=False)
    model.compile(keras.optimizers.Adam(RATE[case.network]), loss, jit_compile=True)
    return model


def keras_program(case: Case) -> tuple[Any, Any, Any, Any]:
    """Build a network and trace its training step, without the GPU.

    Returns:
        The network; the traced step; its variables and the batches, as arrays of NumPy.
    """
    import jax

    start = time.perf_counter()
    with jax.default_device(jax.devices("cpu")[0]):  # hundreds of small programs, which a GPU would compile slowly
        model = keras_model(case)
        batches = case.batches()
        model._symbolic_build(data_batch=batches[0])
        variables = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        state = [[variable.value for variable in part] for part in variables]
        metrics = [variable.value for variable in model.metrics_variables]
    built = time.perf_counter() - start

    def train_step(state: Any, batch: Any) -> Any:
        logs, (*state, _) = model.train_step((*state, metrics), batch)  # metrics as new: this step's loss alone
        return logs["loss"], [list(part) for part in state]

    start = time.perf_counter()
    state, metrics, batches = jax.tree.map(np.asarray, (state, metrics, batches))
    traced_step = jax.jit(train_step, donate_argnums=0).lower(state, batches[0])
    case.say(f"built in {built:.1f} s, traced in {time.perf_counter() - start:.1f} s")
    return model, traced_step, state, batches


def run_keras(case: Case) -> None:
    import jax

    jax.config.update("jax_default_matmul_precision", KERAS[case.precision][0])
    model, traced_step, state, batches = keras_program(case)
    case.use_gpu_alone()
    device = jax.devices()[0]

    def peak() -> str:
        return f"peak {(device.memory_stats() or {}).get('peak_bytes_in_use', 0) / 2**30:.2f} GiB"

    start = time.perf_counter()
    step = traced_step.compile()
    compilation = time.perf_counter() - start
    case.say(f"{model.count_params():,} parameters, {case.size} x {case.size}, {device.device_kind}")
    case.say(f"compiled in {compilation:.1f} s, memory of that {peak()}")
    state, batches = jax.device_put((state, batches), device)

    def train(number: int) -> float:
        nonlocal state
        loss, state = jax.block_until_ready(step(state, batches[number % len(batches)]))
        return float(loss)

    def memory() -> str:
        planned = step.memory_analysis()
        planned = (planned.temp_size_in_bytes + planned.argument_size_in_bytes) / 2**30
        return f"memory planned {planned:.2f} GiB, {peak()}"

    case.train(train, compilation, memory)
    if case.batch == BATCH[case.network]:
        start = time.perf_counter()
        predict_step = jax.jit(lambda variables, images: model.predict_step(variables, (images,))[0])
        predict = predict_step.lower(state[:2], batches[0][0]).compile()
        compilation = time.perf_counter() - start
        images = [images for images, _ in batches]
        case.say_prediction(lambda n: jax.block_until_ready(predict(state[:2], images[n % len(images)])), compilation)


def torch_model(network: str) -> Any:
    if network == "classifier":
        import timm

        return timm.create_model("legacy_xception", num_classes=1)
    import segmentation_models_pytorch

    return segmentation_models_pytorch.FPN(
        "inceptionresnetv2", encoder_weights=None, decoder_dropout=0.0, decoder_merge_policy="cat", classes=1
    )


def torch_loss(network: str, logits: Any, labels: Any) -> Any:
    """Return the experiment's loss: cross-entropy; or the focal loss plus the Dice loss pooled over the batch."""
    import torch

    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    if network == "classifier":
        return cross_entropy(logits, labels)
    probabilities = torch.sigmoid(logits)
    wrong = torch.abs(labels - probabilities)
    weights = torch.where(labels > 0, 0.25, 0.75) * wrong**2
    focal = (weights * cross_entropy(logits, labels, reduction="none")).mean()
    dice = (2 * (labels * probabilities).sum() + 1) / (labels.sum() + probabilities.sum() + 1)
    return focal + 1 - dice


def run_torch(case: Case) -> None:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case.precision != "float32"
    model = torch_model(case.network)
    case.use_gpu_alone()
    model = model.to(device, memory_format=torch.channels_last)
    adam = torch.optim.Adam(model.parameters(), RATE[case.network])
    batches = [[torch.from_numpy(values.swapaxes(1, -1)).to(device) for values in batch] for batch in case.batches()]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    case.say(f"{parameters:,} trainable parameters, {case.size} x {case.size}, torch {torch.__version__}")

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def forward(images: Any) -> Any:
        scaled = (images / 127.5 - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bfloat16"):
            return model(scaled).float()

    def train(number: int) -> float:
        images, labels = batches[number % len(batches)]
        adam.zero_grad(set_to_none=True)
        loss = torch_loss(case.network, forward(images), labels)
        loss.backward()
        adam.step()
        wait()
        if number == WARM_UP and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # the search for the fastest convolutions is over
        return loss.item()

    def memory() -> str:
        return f"memory peak {torch.cuda.max_memory_allocated() / 2**30 if device.type == 'cuda' else 0:.2f} GiB"

    def predict(number: int) -> None:
        with torch.inference_mode():
            forward(batches[number % len(batches)][0])
        wait()

    case.train(train, 0.0, memory)
    model.eval()
    case.say_prediction(predict, 0.0)


def run_precisions(output: Path) -> None:
    """Compare products and convolutions in each precision with float64."""
    import jax
    import jax.numpy as jnp

    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((1024, 1024)).astype(np.float32) for _ in range(2))
    image, kernel = (generator.standard_normal(s).astype(np.float32) for s in ((4, 34, 34, 64), (3, 3, 64, 64)))
    product = a.astype(np.float64) @ b
    patches = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (3, 3), (1, 2))
    convolution = np.einsum("bhwcij,ijco->bhwo", patches, kernel, optimize=True)
    size = 8192 if jax.devices()[0].platform == "gpu" else 512
    large = jnp.asarray(generator.standard_normal((size, size)), jnp.float32)
    for precision in (None, "tensorfloat32", "highest"):
        jax.config.update("jax_default_matmul_precision", precision)
        layout = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=layout)
        errors = (relative_error(jnp.matmul(a, b), product), relative_error(convolved, convolution))
        multiply = jax.jit(jnp.matmul).lower(large, large).compile()
        multiply(large, large).block_until_ready()
        start = time.perf_counter()
        for _ in range(5):
            found = multiply(large, large)
        found.block_until_ready()
        rate = 5 * 2 * size**3 / (time.perf_counter() - start) / 1e12
        say(
            output,
            f"precisions: {precision or 'default'}: relative error of a product {errors[0]:.1e}, of a convolution "
            f"{errors[1]:.1e}; {rate:.1f} TFLOP/s (float32, {size} x {size})",
        )


def relative_error(found: Any, true: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found) - true) / np.linalg.norm(true))


def run(name: str, options: argparse.Namespace) -> None:
    """Run one case in this process."""
    os.environ.update(KERAS_BACKEND="jax", XLA_PYTHON_CLIENT_PREALLOCATE="false", TF_CPP_MIN_LOG_LEVEL="2")
    if name == "precisions":
        with gpu_lock(options.output):
            run_precisions(options.output)
        return
    case = Case(name, options)
    {"keras": run_keras, "torch": run_torch}[case.framework](case)


def start(name: str, options: argparse.Namespace, until: float) -> tuple[str, float, Any, subprocess.Popen]:
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    command = [sys.executable, __file__, name, "--until", str(until), "--output", str(options.output)]
    command += ["--steps", str(options.steps), "--case-seconds", str(options.case_seconds)]
    command += ["--size", str(options.size)] if options.size else []
    return name, time.time(), errors, subprocess.Popen(command, stderr=errors)


def run_all(options: argparse.Namespace) -> None:
    """Run each case in a process of its own, and note those that fail."""
    begin = time.time()
    until, waiting, running = begin + options.seconds, list(options.cases or CASES), []
    while waiting or running:
        while waiting and len(running) < options.at_once and time.time() < until - 20:
            running.append(start(waiting.pop(0), options, until - 5))
        if time.time() > until:
            for name, _, _, process in running:
                process.kill()
                say(options.output, f"{name}: stopped, the time is over")
            break
        for job in [job for job in running if job[-1].poll() is not None]:
            running.remove(job)
            name, started, errors, process = job
            errors.seek(0)
            ended = f"{name}: ended after {time.time() - started:.0f} s, {time.time() - begin:.0f} s in all"
            cause = f", code {process.returncode}: {errors.read()[-1500:].decode()}" if process.returncode else ""
            say(options.output, ended + cause)
        time.sleep(0.1)
        if waiting and not running and time.time() > until - 20:
            break
    if waiting:
        say(options.output, f"not begun: {', '.join(waiting)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"by default {' '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=1800, help="after which what still runs is stopped")
    parser.add_argument("--output", type=Path, default=Path("training_step_gpu.txt"), help="the file to append to")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each case")
    parser.add_argument(
        "--case-seconds",
        type=int,
        default=75,
        help="on the GPU, with the compilation; then a case takes no more steps, and after twice as many it is stopped",
    )
    parser.add_argument("--at-once", type=int, default=3, help="processes that build their networks at the same time")
    parser.add_argument("--size", type=int, help="image size in pixels, to try the script out")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.until is None:
        run_all(options)
    else:
        run(options.cases[0], options)


if __name__ == "__main__":
    main()
