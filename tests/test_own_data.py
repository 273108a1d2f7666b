"""The commands of docs/own_data.md, run in order as the page gives them, and the facts that it states."""

import csv
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pneumoseg.cli import app
from pneumoseg.config import load_experiment
from pneumoseg.data.index import load_manifest
from pneumoseg.synthetic.annotation_files import AnnotatedImage, write_annotations
from tests.conftest import write_dicom

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
TRIAL = "based_on: experiments/demo_"


def blocks(language=""):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def commands():
    """Return the words of each command in the page's blocks, in order."""
    lines = "".join(blocks()).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("pneumoseg ")]


def commands_of_formats():
    """Return the words of each command in the table of formats."""
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| `pneumoseg (index [^`]+)` \|$", PAGE, re.MULTILINE)
    return {name: shlex.split(words) for name, words in rows}


def write_experiments(folder, *, trial):
    """Write the experiment files of the page: those for trying it, or those that need a download."""
    (folder / "experiments").symlink_to(ROOT / "experiments")
    texts = [text for text in blocks("yaml") if (TRIAL in text) == trial]
    paths = [folder / re.match(r"# (\w+\.yaml)\n", text)[1] for text in texts]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def invoke(words):
    outcome = CliRunner().invoke(app, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """Return the folder in which the page's commands were run."""
    folder = tmp_path_factory.mktemp("own data")
    write_experiments(folder, trial=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands():
            if words[0] == "index":
                with pytest.warns(UserWarning, match="2 images left out .* 1 DamagedError, 1 no mask picture"):
                    invoke(words)
            else:
                invoke(words)
    return folder


def picture(path):
    with Image.open(path) as file:
        return np.asarray(file)


def decode(code, shape):
    """Decode the competition's code one run at a time."""
    flat, position = np.zeros(shape[0] * shape[1], bool), 0
    numbers = [] if code == "-1" else list(map(int, code.split()))
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[position + gap : position + gap + length] = True
        position += gap + length
    return flat.reshape(shape, order="F")


def test_page_goes_the_whole_way():
    steps = [
        "synthesize",
        "index",
        "show-masks",
        "train",
        "train",
        "assemble",
        "cache-predictions",
        "report",
        "predict",
    ]
    assert [words[0] for words in commands()] == steps
    assert list(commands_of_formats()) == ["masks", "csv", "absolute-csv", "coco", "seg", "labels"]


def test_generated_files_are_those_of_the_page(followed):
    listed = re.findall(r"^my-data/(\S+?)(?:/<image id>\.png)? +(?:(\d+) .*|the patient.*)$", PAGE, re.MULTILINE)
    assert [name for name, _ in listed] == ["images-train", "masks-train", "nih_id.csv", "images-test"]
    for name, count in listed:
        found = followed / "my-data" / name
        assert found.is_file() if not count else len(list(found.iterdir())) == int(count)


def test_manifest_holds_the_masks_of_the_pictures(followed):
    manifest = load_manifest(followed / "runs/manifest.csv")
    assert len(manifest) == 48
    assert 0 < manifest["has_pneumothorax"].sum() < 48
    assert manifest["patient_id"].nunique() < 48
    for row in manifest.itertuples():
        mask = picture(followed / f"my-data/masks-train/{row.image_id}.png")
        np.testing.assert_array_equal(decode(row.rle, mask.shape), mask == 255)


def test_files_that_are_left_out_are_named(followed):
    reasons = pd.read_csv(followed / "runs/rejected.csv").set_index("image_id")["reason"]
    assert sorted(reason.partition(":")[0] for reason in reasons) == ["DamagedError", "no mask picture"]
    images = {path.stem for path in (followed / "my-data/images-train").iterdir()}
    assert set(reasons.index) < images


def test_results_are_those_of_the_page(followed):
    results, images = followed / "results", sorted((followed / "my-data/images-test").iterdir())
    with (results / "results.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    (row,) = re.findall(r"^\| `results\.csv` \| one row per image: (.*) \|$", PAGE, re.MULTILINE)
    assert header == re.findall(r"`(\w+)`", row)
    assert [row[0] for row in rows] == [path.stem for path in images]
    for row in rows:
        mask = picture(results / "masks" / f"{row[0]}.png")
        np.testing.assert_array_equal(mask, decode(row[header.index("rle")], (128, 128)) * 255)
    entries = {path.name for path in results.iterdir() if not path.name.startswith(".")}
    assert entries == {"results.csv", "masks", "overlays", "index.html"}
    named = set(re.findall(r"^\| `([\w.]+)/?` \| ", PAGE.partition("| in `results/` |")[2], re.MULTILINE))
    assert named == {*entries, "probabilities", "skipped.csv"}


def test_pictures_and_pages_are_there(followed):
    assert picture(followed / "runs/masks.png").ndim == 3
    for page in ("runs/report.html", "results/index.html"):
        assert "</html>" in (followed / page).read_text(encoding="utf-8")


def test_experiments_that_start_from_imagenet_are_valid(tmp_path):
    classifier, segmenter = map(load_experiment, write_experiments(tmp_path, trial=False))
    assert (classifier.kind, segmenter.kind) == ("classifier", "segmenter")
    assert classifier.weights == segmenter.weights == "imagenet"
    assert not classifier.cross_validate
    assert classifier.split == segmenter.split


def draw_masks():
    """Return masks by image id: two regions that overlap, a region that ends at the last pixel, one pixel, none."""
    masks = {f"1.2.3.{number}": np.zeros((48, 64), bool) for number in range(5)}
    regions = [[np.s_[5:30, 7:12], np.s_[20:40, 10:31]], [np.s_[40:, 50:]], [np.s_[:1, :1]], [], []]
    return {
        image_id: (mask, [_region(mask, each) for each in places])
        for (image_id, mask), places in zip(masks.items(), regions, strict=True)
    }


def _region(mask, place):
    region = np.zeros_like(mask)
    region[place] = True
    mask |= region
    return region


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """Return a folder with the files that the table of formats names, and the masks in them."""
    folder, drawn = tmp_path_factory.mktemp("formats"), draw_masks()
    for name in ("images", "masks"):
        (folder / name).mkdir()
    images, dicoms = [], []
    for number, (image_id, (mask, regions)) in enumerate(drawn.items()):
        image = np.random.default_rng(number).integers(0, 256, mask.shape, np.uint8)
        path = folder / "images" / f"{image_id}.png"
        Image.fromarray(image).save(path)
        Image.fromarray(mask).save(folder / "masks" / f"{image_id}_mask.png")
        dicom = write_dicom(
            folder / "dicoms" / f"{image_id}.dcm", image, SOPInstanceUID=image_id, StudyInstanceUID="1.2.4",
            SeriesInstanceUID="1.2.5", Modality="CR",
        )  # fmt: skip
        images.append(AnnotatedImage.of(image_id, path, mask.shape, regions))
        dicoms.append(AnnotatedImage.of(image_id, dicom, mask.shape, regions))
    write_in_formats(folder, images, dicoms)
    return folder, {image_id: mask for image_id, (mask, _) in drawn.items()}


def write_in_formats(folder, images, dicoms):
    names = {"csv": ("x-rle.csv", "relative.csv"), "absolute-csv": ("x-absolute.csv", "absolute.csv")}
    names |= {"labels": ("x-labels.csv", "labels.csv")}
    if has("pycocotools"):
        names["coco"] = ("x-coco.json", "coco.json")
    if has("highdicom"):
        names["seg"] = ("seg-x", "segmentations")
    for name, (written, named) in names.items():
        write_annotations(name, folder, "x", dicoms if name == "seg" else images)
        os.rename(folder / written, folder / named)


def has(library):
    try:
        __import__(library)
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", ["masks", "csv", "absolute-csv", "coco", "seg", "labels"])
@pytest.mark.parametrize("named", [False, True], ids=["recognized", "named"])
def test_every_format_gives_the_same_masks(formats, monkeypatch, tmp_path, name, named):
    pytest.importorskip({"coco": "pycocotools", "seg": "highdicom"}.get(name, "numpy"))
    folder, masks = formats
    monkeypatch.chdir(folder)
    out = tmp_path / "manifest.csv"
    invoke([*commands_of_formats()[name], "--out", str(out), *(["--annotations-format", name] if named else [])])
    manifest = load_manifest(out).set_index("image_id")
    assert set(manifest.index) == set(masks)
    for image_id, mask in masks.items():
        assert manifest.loc[image_id, "has_pneumothorax"] == mask.any()
        if name == "labels":
            assert manifest.loc[image_id, "rle"] == ""
        else:
            np.testing.assert_array_equal(decode(manifest.loc[image_id, "rle"], mask.shape), mask)
