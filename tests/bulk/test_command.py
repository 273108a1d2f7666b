"""The options of `predict` for Ray, as a user types them."""

import pytest
from typer.testing import CliRunner

from pneumoseg import cluster
from pneumoseg.bulk.run import predict_in_bulk
from pneumoseg.cli import app
from pneumoseg.cli.ray_option import with_address
from pneumoseg.folder_lock import locked_folder


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ("in --ray", "in --ray=local"),
        ("--ray in", "--ray=local in"),
        ("--ray --out o in", "--ray=local --out o in"),
        ("in --ray auto --out o", "in --ray=auto --out o"),
        ("--ray=auto in", "--ray=auto in"),
        ("--ray ray://head:10001 in", "--ray=ray://head:10001 in"),
        ("in --ray 10.0.0.1:6379", "in --ray=10.0.0.1:6379"),
        ("in --ray [::1]:6379", "in --ray=[::1]:6379"),
        ("--ray ./auto", "--ray=local ./auto"),
        ("--ray s3://ward/in", "--ray=local s3://ward/in"),
        ("in -- --ray", "in -- --ray"),
        ("in", "in"),
    ],
)
def test_the_address_may_be_left_out(words, joined):
    assert with_address(words.split()) == joined.split()


def refusal(*arguments):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.stdout == ""
    return str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--ray --overlays --json", "--overlays, --json: not possible with --ray"),
        ("--ray --max-images 3 --out {o}", "--max-images: not possible with --ray"),
        ("--ray --probabilities --out {o}", "--probabilities: not possible with --ray"),
        ("--ray", "nothing to do with the results: name a folder with --out"),
        ("--ray=here --out {o}", "--ray=here: expected auto or HOST:PORT"),
        ("--ray ray://head:10001 --out {o}", "--ray ray://head:10001: Ray Data cannot work through Ray Client: run"),
        ("--workers 2 --gpus-per-worker 1 --out {o}", "--workers, --gpus-per-worker: for --ray: add it"),
        ("--out s3://ward/out", "s3://ward/out is a URL, which only --ray reads and writes"),
        ("--out {o} s3://ward/in", "s3://ward/in is a URL, which only --ray reads and writes"),
        ("--ray --out file://{file}", "/pipeline.txt is a file: name a folder to write"),
        ("--ray --out {o}", "no pipeline, it has no pipeline.json"),
    ],
)
def test_mistakes_are_told_before_ray_starts(options, message, tmp_path):
    (tmp_path / "pipeline.txt").touch()
    words = options.replace("{o}", str(tmp_path / "o")).replace("{file}", str(tmp_path / "pipeline.txt")).split()
    assert message in refusal(tmp_path, *words, "--pipeline", tmp_path)


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name in ("ray", "pyarrow") else True)
    said = refusal(tmp_path, "--ray", "--out", tmp_path / "o", "--pipeline", tmp_path)
    assert said == "--ray needs ray, pyarrow: pip install 'pneumoseg[ray]'"


def test_a_url_of_a_local_folder_is_made_and_locked(pipeline, tmp_path):
    with (
        locked_folder(tmp_path, "written"),
        pytest.raises(FileExistsError, match="another"),
    ):
        predict_in_bulk(f"file://{pipeline}", [str(tmp_path)], f"file://{tmp_path}")
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        predict_in_bulk(f"file://{pipeline}", [f"file://{tmp_path}/absent"], f"file://{tmp_path}/new/out")
    assert (tmp_path / "new/out/run.json").is_file()
