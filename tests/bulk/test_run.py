"""Runs on Ray, compared with the run of one process."""

import contextlib
import csv
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pneumoseg.bulk import read_results
from pneumoseg.bulk.crew import Crew
from pneumoseg.bulk.packing import pack, unpacked
from pneumoseg.bulk.placement import Workers, find_room
from pneumoseg.bulk.run import predict_in_bulk
from pneumoseg.bulk.shards import SHARD, ResultFolder
from pneumoseg.bulk.worker import GIVEN, Worker
from pneumoseg.cli import app
from pneumoseg.folder_lock import locked_folder
from pneumoseg.image_errors import NotAnImageError
from pneumoseg.inference import Result, load_pipeline
from pneumoseg.results import write_results
from tests.conftest import write_dicom

pytestmark = pytest.mark.ray

ONE, TWO = Workers(number=1), Workers(number=2)


def run(pipeline, inputs, out, **options):
    several = [inputs] if isinstance(inputs, (str, Path)) else inputs
    return predict_in_bulk(str(pipeline), [*map(str, several)], str(out), workers=TWO, batch_size=2, **options)


def cells(out):
    """Return the rows that were written, as `results.csv` has them."""
    rows = read_results(out).iloc[:, :10].to_dict("records")
    return [{name: "" if pd.isna(value) else str(value) for name, value in row.items()} for row in rows]


def one_process(pipeline, inputs, folder):
    """Return the rows of one process."""
    write_results(load_pipeline(pipeline, 2), inputs, folder)
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shards(out):
    return sorted(Path(out).glob("part-*.parquet"))


@pytest.mark.usefixtures("ray")
def test_rows_are_those_of_one_process_whatever_is_stopped_added_and_mended(pipeline, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("pneumoseg.bulk.run._SHARD_ROWS", 1)
    done = run(pipeline, images, out)
    expected = one_process(pipeline, images, tmp_path / "one")
    assert cells(out) == expected
    assert (done.images, done.positive, done.negative, len(done.errors), done.skipped) == (37, 36, 0, 1, 1)
    assert done.errors[0][0] == str(images / "a1/i07.dcm")
    assert [row["image_id"] for row in expected if "i00" in row["path"]] == ["i00", "i00_2"]
    table = read_results(out)
    assert set(table["pipeline_digest"].dropna()) == {load_pipeline(pipeline).digest}
    assert table.loc[0, ["rows", "columns"]].tolist() == [40, 40]
    first = shards(out)
    assert len(first) == 3

    # A driver that was killed leaves some of the shards.
    first[1].unlink()
    run(pipeline, images, out)
    assert cells(out) == expected
    (again,) = set(shards(out)) - set(first)
    assert len(pd.read_parquet(again)) in (16, 5)  # a chunk, or the last one

    # What could not be read is tried again, and recorded only if it is read.
    before = shards(out)
    assert run(pipeline, images, out).errors == done.errors
    assert shards(out) == before
    write_dicom(images / "a1/i07.dcm", np.full((48, 40), 9, np.uint8))
    write_dicom(images / "new/i99.dcm", np.full((48, 40), 200, np.uint8))
    (images / "a0/i00.dcm").write_bytes((images / "a0/i03.dcm").read_bytes())
    mended = run(pipeline, images, out)
    assert (mended.images, mended.errors) == (38, [])
    assert cells(out) == one_process(pipeline, images, tmp_path / "one")

    # Fewer inputs: rows stay.
    assert run(pipeline, images / "a2", out).images == 12
    assert len(cells(out)) == 38


@pytest.mark.usefixtures("ray")
def test_s3_in_and_out(pipeline, images, tmp_path, s3):
    expected = one_process(pipeline, images, tmp_path / "one")
    s3.put(f"{images}/", "ward/in/", recursive=True)
    s3.put(f"{pipeline}/", "ward/pipeline/", recursive=True)
    done = run("s3://ward/pipeline", "s3://ward/in", "s3://ward/out")
    remote = cells("s3://ward/out")
    for row in expected:
        row["path"] = row["path"].replace(str(images), "s3://ward/in")
    assert remote == expected
    assert (done.images, done.skipped, len(done.errors)) == (37, 1, 1)
    assert "run.json" in [name.rpartition("/")[2] for name in s3.ls("ward/out")]
    assert len(s3.ls("ward/in")) == 5  # and a run adds nothing to its inputs
    assert run("s3://ward/pipeline", "s3://ward/in", "s3://ward/out").images == 37
    picked = run(pipeline, ["s3://ward/in/a?/i0[12].dcm", images / "a-b/i00.dcm"], tmp_path / "picked")
    assert picked.images == 3
    assert [path.partition("in/")[2] for path in read_results(tmp_path / "picked")["path"]] == [
        "a-b/i00.dcm", "a1/i01.dcm", "a2/i02.dcm",
    ]  # fmt: skip


def test_folders_of_others_are_refused(pipeline, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").touch()
    with pytest.raises(FileExistsError, match=r"other than bulk results, such as letter\.txt"):
        run(pipeline, images, out)
    (out / "letter.txt").unlink()
    with locked_folder(out, "written"), pytest.raises(FileExistsError, match="is being written by another process"):
        run(pipeline, images, out)
    identity = {"networks": {}, "rule": {}, "flip": True, "engine": "keras", "batch_size": 2}
    (out / "run.json").write_text(json.dumps(identity | {"threads": 2, "version": "0"}))
    (out / "part-000000-aa.parquet").touch()
    with pytest.raises(FileExistsError, match=r"another pipeline or other options \(flip, networks, rule\)"):
        run(pipeline, images, out)
    (out / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        run(pipeline, images, out)
    with pytest.raises(FileNotFoundError, match="no results of `pneumoseg predict --ray`"):
        read_results(tmp_path)


def test_a_mistake_does_not_claim_the_folder(pipeline, tmp_path):
    for batch_size in (8, 2):  # with other options, which a folder with results would refuse
        with pytest.raises(FileNotFoundError, match="typo"):
            predict_in_bulk(str(pipeline), [str(tmp_path / "typo")], str(tmp_path / "out"), batch_size=batch_size)
    assert json.loads((tmp_path / "out/run.json").read_text())["batch_size"] == 2


@pytest.mark.parametrize("other", [{"batch_size": 8}, {"batch_size": 4}])
def test_two_runs_with_other_options_cannot_both_claim_an_empty_folder(other, tmp_path):
    """On an object store nothing locks it."""
    first, second = (ResultFolder(str(tmp_path)) for _ in range(2))
    rows = pa.Table.from_pylist([{"path": "a"}], SHARD)
    first.claim({"batch_size": 4}, 1)
    second.claim(other, 1)
    second.append(rows)
    if other == {"batch_size": 4}:
        first.append(rows)
    else:
        with pytest.raises(FileExistsError, match="was claimed by another run with other options"):
            first.append(rows)


@pytest.mark.parametrize(
    ("nodes", "number", "gpus", "expected"),
    [
        ([(4, 0)] * 4, 2, None, (2, 4, 0)),  # not 16 / 2
        ([(4, 0)] * 4, None, None, (16, 1, 0)),
        ([(5, 0), (2, 0)], 3, None, (3, 2, 0)),
        ([(16, 0), (4, 1), (4, 1)], None, None, (2, 4, 1)),  # a head without GPUs
        ([(8, 2)], 4, 0.5, (4, 2, 0.5)),
        ([(16, 1)], None, 0.1, (10, 1, 0.1)),
        ([(8, 2)], None, 0, (8, 1, 0)),
        ([(2, 0)], 3, 1, (3, 1, 1)),  # machines with GPUs join later
    ],
)
def test_all_workers_find_room(nodes, number, gpus, expected):
    has = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(devices)}} for cpus, devices in nodes]
    made_up = SimpleNamespace(nodes=lambda: [*has, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}])
    count, options = find_room(made_up, Workers("auto", number, gpus), "keras")
    assert (count, options["num_cpus"], options["num_gpus"]) == expected


@pytest.mark.parametrize(("number", "gpus"), [(2, 1), (None, 1), (3, 0.1)])
def test_workers_without_room_on_this_machine_are_refused(number, gpus):
    made_up = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    with pytest.raises(ValueError, match="Ray has 2 CPUs and 0 GPUs, where 0 workers"):
        find_room(made_up, Workers(None, number, gpus), "keras")


@pytest.mark.parametrize(
    ("cpus", "number", "gpus", "engine", "missing"),
    [
        (2, 3, None, "keras", "--gpus-per-worker (0 for CPUs)"),
        (0, None, None, "keras", "--workers and --gpus-per-worker (0 for CPUs)"),
        (0, None, 1, "keras", "--workers"),
        (0, None, None, "openvino", "--workers"),
    ],
)
def test_a_cluster_without_room_yet_is_not_guessed_at(cpus, number, gpus, engine, missing):
    made_up = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": float(cpus)}}])
    with pytest.raises(ValueError, match=re.escape(f" now: name {missing}, since")):
        find_room(made_up, Workers("auto", number, gpus), engine)


class Actor:
    """Worker that gives each image an empty mask, unless a test says otherwise."""

    def __init__(self, *_):
        pass

    def __call__(self, work):
        numbers, paths = (pc.list_flatten(work[name]).to_pylist() for name in ("number", "path"))
        self.meet({Path(path).stem for path in paths})
        return pa.Table.from_pylist(
            [{"path": p, "has_pneumothorax": False, "number": n} for n, p in zip(numbers, paths, strict=True)], GIVEN
        )


@pytest.mark.usefixtures("ray")
def test_only_a_file_that_kills_its_workers_by_itself_has_no_result(pipeline, images, tmp_path, monkeypatch):
    class Mortal(Actor):
        def meet(self, names):
            if "i07" in names:
                os._exit(1)

    monkeypatch.setattr("pneumoseg.bulk.run.Worker", Mortal)
    monkeypatch.setattr("pneumoseg.bulk.crew._RETRIES", 1)
    out = tmp_path / "out"
    done = run(pipeline, images, out)
    died = "each worker that read it died. Give workers more memory, or leave the file out"
    assert (done.images, done.negative, done.errors) == (37, 36, [(str(images / "a1/i07.dcm"), died)])
    assert read_results(out).query("error.notna()")["stage"].tolist() == ["error"]


class RayError(Exception):
    """Stands for all errors of Ray."""


class MadeUpCrew:
    """Crew without Ray, whose workers die on some images, as Ray Data counts it."""

    ray = SimpleNamespace(
        exceptions=SimpleNamespace(RayError=RayError, RayActorError=RayError, OutOfMemoryError=RayError),
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}],
        put=lambda content: content,
    )
    killers, tried = frozenset(), ()

    def __init__(self, *_):
        pass

    @contextlib.contextmanager
    def work(self, pieces, *, ahead, most_lost=None):
        yield self.results(pieces, most_lost)

    def results(self, pieces, most_lost):
        lost = 0
        for piece in pieces:
            type(self).tried += (len(piece),)
            numbers, paths = piece["number"].to_pylist(), piece["path"].to_pylist()
            if self.killers & {Path(path).stem for path in paths}:
                lost += 1
                if most_lost is not None and lost > most_lost:
                    raise RayError
                continue
            rows = [{"path": p, "has_pneumothorax": False, "number": n} for n, p in zip(numbers, paths, strict=True)]
            yield pa.Table.from_pylist(rows, GIVEN)


@pytest.fixture
def crew(monkeypatch):
    """Return a class of workers without Ray, which tells the sizes of the pieces that were tried."""
    crew = type("Crew", (MadeUpCrew,), {})
    monkeypatch.setattr("pneumoseg.bulk.run.Crew", crew)
    monkeypatch.setattr("pneumoseg.bulk.run.connect", lambda *_, **__: contextlib.nullcontext(crew.ray))
    return crew


def test_lost_pieces_are_tried_in_chunks_then_in_images(pipeline, images, tmp_path, crew, monkeypatch):
    monkeypatch.setattr("pneumoseg.bulk.run._PIECES", 1)
    crew.killers = {"i02"}  # in the folder a2
    for _ in range(2):
        done = predict_in_bulk(str(pipeline), [str(images)], str(tmp_path / "out"), workers=ONE, batch_size=1)
        assert [Path(path).stem for path, _ in done.errors] == ["i02"]
    assert crew.tried == (37,) + (8, 8, 8, 8, 5) + (1,) * 8 + (1, 1)  # 37, its 5 chunks, a chunk's images; again


def test_from_the_first_result_on_any_number_of_pieces_may_be_lost(pipeline, images, tmp_path, crew, monkeypatch):
    monkeypatch.setattr("pneumoseg.bulk.run._LOST", 0)
    crew.killers = {"i02", "i35"}  # in the last two of three pieces
    done = run(pipeline, images, tmp_path / "out")
    assert [Path(path).stem for path, _ in done.errors] == ["i02", "i35"]
    assert (done.images, done.negative) == (37, 35)


def test_more_than_a_tenth_of_the_first_pieces_ends_the_run(pipeline, images, tmp_path, crew, monkeypatch):
    """So many deaths are those of a machine."""
    monkeypatch.setattr("pneumoseg.bulk.run._LOST", 0)
    monkeypatch.setattr("pneumoseg.bulk.run._PIECES", 1)
    monkeypatch.setattr("pneumoseg.bulk.run._CHUNKS", 2)
    crew.killers = {"i02"}  # in the second of three pieces
    with pytest.raises(RuntimeError, match=r"more than 0 pieces of work.*finished rows are kept"):
        predict_in_bulk(str(pipeline), [str(images)], str(tmp_path / "out"), workers=ONE, batch_size=1)
    assert crew.tried == (16, 16, 16)  # the second again, with a limit of its own
    assert len(read_results(tmp_path / "out")) > 0


def test_a_pipeline_that_kills_its_workers_ends_the_run(pipeline, images, tmp_path, crew, monkeypatch):
    monkeypatch.setattr("pneumoseg.bulk.run._LOST", 1)
    crew.killers = {path.stem for path in images.rglob("*.dcm")}
    with pytest.raises(RuntimeError, match="they died on more than 1 pieces of work"):
        run(pipeline, images, tmp_path / "out")
    assert crew.tried == (16, 16)


def test_an_error_in_a_worker_ends_the_run_with_its_reason(pipeline, images, tmp_path, monkeypatch, ray, recwarn):
    class Failing(Worker):
        @property
        def _pipeline(self):
            return self

        def predict_many(self, paths):
            for path in paths:
                if "a2" in path:
                    raise MemoryError("17 GB\nand more")
                yield Result("", math.nan, "-1", (1, 1), "error", NotAnImageError(path, "is a test"))

    def settings():
        context = ray.data.DataContext.get_current()
        names = "max_errored_blocks", "enable_progress_bars", "print_on_execution_start"
        return [getattr(context, name) for name in names], logging.getLogger("ray.data").level

    before = settings()
    monkeypatch.setattr("pneumoseg.bulk.run.Worker", Failing)
    pattern = (
        r"^the workers on Ray failed: MemoryError: 17 GB \(in the piece of work that begins with .*\.dcm\); finished"
    )
    with pytest.raises(RuntimeError, match=pattern):
        predict_in_bulk(str(pipeline), [str(images)], str(tmp_path / "out"), workers=ONE, batch_size=2)
    assert len(read_results(tmp_path / "out")) == 16  # the first chunk has no image of the folder a2
    assert settings() == before
    assert not [warning for warning in recwarn if "ray_remote_args" in str(warning.message)]


def test_ray_data_takes_pieces_for_gpus(ray):
    with Crew(ray, Actor, (), 1, {"num_gpus": 1}).work([pa.table({"number": [0], "path": ["a"]})], ahead=0):
        pass  # a wrong size of batches is refused before the work begins


def test_texts_are_large_strings_also_from_shards_whose_texts_are_not(tmp_path):
    rows = pa.table({"path": ["b", "a"], "rle": ["1 2", None]})
    pq.write_table(rows, tmp_path / "part-000000-aa.parquet")
    folder = ResultFolder(str(tmp_path))
    folder.append(pa.Table.from_pylist([{"path": "b", "rle": "3 4"}], SHARD))
    table = folder.rows(["path", "rle"])
    assert table.to_pylist() == [{"path": "b", "rle": "3 4"}, {"path": "a", "rle": None}]
    assert table.schema.types == [pa.large_string()] * 2  # `take` fails on more than 2 GiB of the others


def test_a_folders_own_name_is_none_of_its_files(s3):
    s3.pipe_file("ward/made-in-a-console/", b"")
    assert ResultFolder("s3://ward/made-in-a-console").names() == []
    assert ResultFolder("s3://ward/made-in-a-console/").names() == []


def test_linked_bundles_are_packed_as_files(tmp_path):
    (tmp_path / "bundle").write_text("weights")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/bundle").symlink_to(tmp_path / "bundle")
    with unpacked(pack(tmp_path / "pipeline", exports=False)) as folder:
        assert not (folder / "bundle").is_symlink()
        assert (folder / "bundle").read_text() == "weights"


def test_a_failed_run_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the workers on Ray failed: oops")

    monkeypatch.setattr("pneumoseg.bulk.run.predict_in_bulk", fail)
    result = CliRunner().invoke(app, ["predict", "in", "--pipeline", "p", "--out", str(tmp_path), "--ray"])
    assert (result.exit_code, result.stderr) == (2, "pneumoseg: the workers on Ray failed: oops\n")


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "part-000000-aa.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part-000000-aa\.parquet is damaged"):
        read_results(tmp_path)


_KILLABLE = """
import sys
import pneumoseg.bulk.run as run
run._SHARD_ROWS = run._CHUNKS = 1
from pneumoseg.cli import main
sys.argv = ["pneumoseg", *sys.argv[1:]]
main()
"""


def test_a_killed_driver_and_a_killed_worker_cost_only_time(pipeline, images, tmp_path):
    pytest.importorskip("ray")
    for number in range(37, 200):  # links, so that there is time to kill
        (images / f"a0/z{number}.dcm").symlink_to(images / "a0/i00.dcm")
    expected = one_process(pipeline, images, tmp_path / "one")
    out = tmp_path / "out"
    arguments = ["predict", images, "--pipeline", pipeline, "--out", out, "--batch-size", 2, "--ray", "--workers", 1]
    command = [sys.executable, "-c", _KILLABLE, *map(str, arguments)]
    for victim, count in (("driver", 1), ("worker", 3)):
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: len(shards(out)) >= count and workers_of(driver.pid), driver)  # noqa: B023
            process = driver.pid if victim == "driver" else workers_of(driver.pid)[0]
            os.kill(process, signal.SIGKILL)
            said, errors = driver.communicate()
        finally:
            driver.kill()
    assert driver.returncode == 1, errors  # because of the broken file
    # Ray may have told before that a worker died.
    assert "200 images: 199 with a pneumothorax, 0 without, 1 unreadable; 1 other files skipped" in said.splitlines()
    assert f'pneumoseg.bulk.read_results("{out}")' in said
    assert "images are done" in errors
    assert cells(out) == expected


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def workers_of(driver):
    """Return the processes of the actors below a process."""
    below = psutil.Process(driver).children(recursive=True)
    return sorted(process.pid for process in below if "MapWorker" in title(process))


def title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
