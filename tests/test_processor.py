"""Tests of the name and the instructions of the processor, from made-up files of the system."""

import platform

import pytest

from pneumoseg import processor


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Path of the system's file, which does not exist yet."""
    monkeypatch.setattr(processor, "_LINUX", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("content", "has"),
    [
        ("model name\t: A\nflags\t\t: fpu avx2 avx512_bf16 fma\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("model name\t: bf16\nflags\t\t: fpu avx2 avx512bw\n", False),
        ("model name\t: A\n", None),
        (None, None),
    ],
)
def test_bfloat16_is_read_from_the_flags_of_the_processor(content, has, cpuinfo):
    if content is not None:
        cpuinfo.write_text(content)
    assert processor.has_bfloat16() is has


@pytest.mark.parametrize(
    ("content", "has"),
    [
        ("flags\t\t: fpu avx512_vnni\n", True),
        ("flags\t\t: fpu avx_vnni\n", True),
        ("Features\t: fp asimddp\n", True),
        ("flags\t\t: fpu avx2\n", False),
        (None, None),
    ],
)
def test_sums_of_8_bit_products_are_read_from_the_flags(content, has, cpuinfo):
    if content is not None:
        cpuinfo.write_text(content)
    assert processor.has_vnni() is has


def test_the_name_is_that_of_the_first_core_or_of_the_system(cpuinfo):
    assert processor.processor_name() == (platform.processor() or platform.machine())
    cpuinfo.write_text("model\t: 1\nmodel name\t: AMD EPYC\nmodel name\t: B\n")
    assert processor.processor_name() == "AMD EPYC"
