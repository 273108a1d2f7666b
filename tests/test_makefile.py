"""The commands that make runs, recorded by a stand-in for `pneumoseg`."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOALS = [
    "index", "show-masks", "show-augmentations", "train-classifier", "train-segmenter", "tune", "submit", "evaluate",
    "report", "show-predictions",
]  # fmt: skip


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Return a function that runs make and gives the arguments of each call of `pneumoseg`."""
    for name in ("DATA", "RUNS", "EXPERIMENT", "TRAIN", "TEST", "SAMPLE", "ANNOTATIONS", "ID_MAP"):
        monkeypatch.delenv(name, raising=False)
    record = tmp_path / "record"
    command = tmp_path / "bin" / "pneumoseg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >> {record}\nprintf "\\n" >> {record}\n')
    command.chmod(0o755)

    def run(*goals, **variables):
        record.unlink(missing_ok=True)
        given = {"BIN": command.parent, "INSTALLED": command, **variables}
        words = ["make", *goals, *(f"{name}={value}" for name, value in given.items())]
        finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        return [line.split("\0")[:-1] for line in record.read_text().splitlines()]

    return run


@pytest.mark.parametrize("goal", GOALS)
def test_each_goal_is_reproduced(arguments, goal):
    assert arguments(goal) == [["reproduce", "data", goal, "--runs", "runs"]]


def test_variables_become_options(arguments):
    (command,) = arguments(
        "submit", DATA="siim", RUNS="out", TUNE="no", FLIP="yes", EXPERIMENT="e", CLASSIFIER_EXPERIMENT="c",
        SEGMENTER_EXPERIMENT="s", TRAIN="tr", TEST="te", ANNOTATIONS="a", SAMPLE="sa", ID_MAP="i", TEST_ID_MAP="ti",
        BACKEND="jax",
    )  # fmt: skip
    assert command[:5] == ["reproduce", "siim", "submit", "--runs", "out"]
    assert command[5:] == [
        "--no-tune", "--flip", "--experiment", "e", "--experiment", "c", "--experiment", "s", "--train", "tr",
        "--test", "te", "--annotations", "a", "--sample", "sa", "--id-map", "i", "--test-id-map", "ti",
        "--backend", "jax",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["my siim", "x ", "it's", 'a"b', "a;b", "a&b|c", "a*?[b]", "é~", "a#b", "(a)", "<a>", "`a`", "a\\b"]
)
def test_any_name_arrives_as_it_is(arguments, name):
    assert arguments("report", DATA=name, TRAIN=name) == [
        ["reproduce", name, "report", "--runs", "runs", "--train", name]
    ]


def test_empty_names_arrive_too(arguments):
    assert arguments("index", DATA="", TRAIN="") == [["reproduce", "", "index", "--runs", "runs", "--train", ""]]


def test_environment_names_the_data(arguments, monkeypatch):
    monkeypatch.setenv("DATA", "my siim")
    monkeypatch.setenv("TEST", "its test")
    assert arguments("index") == [["reproduce", "my siim", "index", "--runs", "runs", "--test", "its test"]]


def test_several_goals_follow_each_other(arguments):
    assert [command[2] for command in arguments("evaluate", "submit")] == ["evaluate", "submit"]


def test_demo_is_the_whole_pipeline(arguments):
    commands = arguments("demo")
    assert commands[-1][:6] == ["reproduce", "demo/data", "submit", "evaluate", "report", "show-predictions"]


def test_help_needs_nothing():
    finished = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"make {goal} " in finished.stdout for goal in GOALS)
    assert finished.stderr == ""
