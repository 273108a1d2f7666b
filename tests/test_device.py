"""Log lines and warnings about made-up devices, and the facts that are found about this machine."""

import logging
import os
from dataclasses import replace

import keras
import pytest
import tensorflow as tf

from pneumoseg import device
from pneumoseg.device import Device, announce_device, find_device, leave_gpus_to_jax

GPU = Device(("NVIDIA H100",), 78 * 2**30, 16, True, True, "2.21.0", None)
CPU = Device((), 15 * 2**30, 2, False, False, "2.21.0", None)
IDLE = replace(CPU, driver=True)


@pytest.mark.parametrize(
    ("found", "precision", "jit", "line"),
    [
        (GPU, "mixed_float16", False, "Device: NVIDIA H100, 78 GiB, mixed_float16, jit off"),
        (GPU, "float32", True, "Device: NVIDIA H100, 78 GiB, float32 rounded to TF32, jit on"),
        (replace(GPU, tf32=False), "float32", False, "Device: NVIDIA H100, 78 GiB, float32, jit off"),
        (
            replace(GPU, gpus=("NVIDIA A", "NVIDIA B"), memory_bytes=None),
            "mixed_bfloat16",
            False,
            "Device: NVIDIA A (the first of 2 GPUs, the others idle), memory unknown, mixed_bfloat16, jit off",
        ),
        (
            replace(GPU, gpus=("NVIDIA A",) * 8, backend="jax", devices=8, hosts=2),
            "float32",
            True,
            "Device: NVIDIA A, 8 devices of 2 hosts, 78 GiB, float32 rounded to TF32, jit on",
        ),
        (replace(CPU, devices=2), "float32", True, "Device: CPU, 2 cores (no GPU), 2 devices, 15 GiB, float32, jit on"),
        (CPU, "float32", False, "Device: CPU, 2 cores (no GPU), 15 GiB, float32, jit off"),
        (
            replace(IDLE, visible_devices="-1"),
            "float32",
            False,
            "Device: CPU, 2 cores (GPUs hidden by CUDA_VISIBLE_DEVICES), 15 GiB, float32, jit off",
        ),
    ],
)
def test_line(found, precision, jit, line):
    assert found.describe(precision, jit) == line


def test_warning_about_an_idle_gpu_names_the_remedy():
    assert 'pip install "tensorflow[and-cuda]==2.21.0"' in IDLE.warning
    assert 'pip install "jax[cuda12]==0.10.2"' in replace(IDLE, backend="jax", version="0.10.2").warning
    assert "CUDA_VISIBLE_DEVICES is" not in IDLE.warning
    assert "CUDA_VISIBLE_DEVICES is '7'" in replace(IDLE, visible_devices="7").warning


@pytest.mark.parametrize(
    "found", [GPU, CPU, *(replace(IDLE, visible_devices=value) for value in ("", " ", "-1", "NoDevFiles"))]
)
def test_no_warning_if_a_gpu_is_used_or_absent_or_hidden_on_purpose(found):
    assert found.warning is None


@pytest.mark.parametrize("visible", [None, "-1"])
def test_device_is_logged_once_and_returned(visible, monkeypatch, caplog):
    monkeypatch.setattr(device, "find_device", lambda: replace(IDLE, visible_devices=visible))
    with caplog.at_level(logging.INFO, "pneumoseg"):
        kept = announce_device("float32", False)
    levels = [record.levelname for record in caplog.records]
    assert levels == (["INFO", "WARNING"] if visible is None else ["INFO"])
    assert caplog.records[0].getMessage() == replace(IDLE, visible_devices=visible).describe("float32", False)
    assert kept == {
        "device": replace(IDLE, visible_devices=visible).name,
        "backend": "tensorflow",
        "memory_gibibytes": 15.0,
        "precision": "float32",
        "jit_compile": False,
        "tf32": False,
    }


@pytest.mark.parametrize(
    ("capability", "enabled", "override", "tf32"),
    [
        ((8, 0), True, None, True),
        ((9, 0), True, "1", True),
        ((7, 5), True, None, False),  # before Ampere
        ((8, 0), False, None, False),
        ((8, 0), True, "0", False),
    ],
)
def test_facts_of_a_gpu(capability, enabled, override, tf32, monkeypatch):
    details = {"device_name": "NVIDIA X", "compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    monkeypatch.setattr(tf.config.experimental, "tensor_float_32_execution_enabled", lambda: enabled)
    monkeypatch.setattr(device, "_gpu_memory", lambda: 2**30)
    if override is None:
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    else:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    found = find_device()
    assert (found.gpus, found.memory_bytes, found.tf32) == (("NVIDIA X", "NVIDIA X"), 2**30, tf32)


def test_facts_of_this_machine(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = find_device()
    assert (found.cores, found.visible_devices, found.version) == (os.cpu_count(), "-1", tf.__version__)
    assert found.memory_bytes is None or found.memory_bytes > 2**28


@pytest.mark.parametrize("trace", ["command", "file", None])
def test_driver_is_found_by_its_command_or_its_files(trace, tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.touch(mode=0o755)
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path if trace == "command" else tmp_path / "empty"))
    monkeypatch.setattr(device, "_DRIVER_FILES", (command if trace == "file" else tmp_path / "absent",))
    assert find_device().driver == (trace is not None)
    monkeypatch.setattr(device.sys, "platform", "win32")
    assert not find_device().driver


@pytest.mark.parametrize(
    ("found", "precision", "warned"),
    [
        (replace(CPU, bfloat16=False), "mixed_bfloat16", True),
        (replace(CPU, bfloat16=False), "float32", False),
        (replace(CPU, bfloat16=False), "mixed_float16", False),
        (replace(CPU, bfloat16=True), "mixed_bfloat16", False),
        (CPU, "mixed_bfloat16", False),  # unknown
        (replace(GPU, bfloat16=False), "mixed_bfloat16", False),
    ],
)
def test_warning_about_bfloat16_on_a_cpu_without_it(found, precision, warned, monkeypatch, caplog):
    monkeypatch.setattr(device, "find_device", lambda: found)
    announce_device(precision, False)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["mixed_bfloat16 takes longer" in message for message in warnings] == [True] * warned


@pytest.mark.parametrize(("backend", "hidden"), [("jax", [([], "GPU")]), ("tensorflow", [])])
def test_gpus_are_left_to_jax(backend, hidden, monkeypatch):
    calls = []
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *devices: calls.append(devices))
    leave_gpus_to_jax()
    assert calls == hidden


def test_memory_that_tensorflow_has_taken_from_jax_is_told(monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    leave_gpus_to_jax()
    assert "TensorFlow has taken memory of the GPU" in caplog.text
