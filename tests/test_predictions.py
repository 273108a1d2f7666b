"""Kept predictions: the same numbers again, and only what is missing is run."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image

from pneumoseg import rle
from pneumoseg.engines import Engine
from pneumoseg.inference import Pipeline
from pneumoseg.predictions import cache_predictions, load_predictions, pool
from tests.conftest import manifest_of, predictions_of, write_dicom
from tests.networks import brightest, identity

SIZE = 16
NETWORKS = {"classifier_1": "a", "segmenter_1": "b"}


class Watched(Pipeline):
    """Notes which files it was seen for, and may be stopped."""

    seen: list
    stop: int

    def probabilities(self, sources):
        for answer in super().probabilities(sources):
            if answer.image_id:  # arrays are there to build the graphs
                if len(self.seen) == self.stop:
                    raise KeyboardInterrupt
                self.seen.append(answer.image_id)
            yield answer


@pytest.fixture(scope="module")
def networks():
    return [brightest(SIZE, 0.9)], [identity(SIZE, 0.9)]


@pytest.fixture
def watched(networks):
    def make(stop=None, **changes):
        pipeline = Watched(*networks, **{"networks": NETWORKS, **changes})
        object.__setattr__(pipeline, "seen", [])
        object.__setattr__(pipeline, "stop", stop)
        return pipeline

    return make


@pytest.fixture
def manifest(tmp_path):
    """Nine images of several shapes, the fourth one damaged."""
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=shape).astype(np.uint8) for shape in [(16, 16), (24, 16), (8, 20)] * 3]
    paths = [write_dicom(tmp_path / "dicom" / f"i{n}.dcm", image) for n, image in enumerate(images)]
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    return manifest_of(paths, images, ["-1", "0 8", "3 5"] * 3)


READABLE = [0, 1, 2, 4, 5, 6, 7, 8]


def assert_same(found, expected):
    np.testing.assert_array_equal(found.probability, expected.probability)
    assert list(found.errors) == list(expected.errors)
    for row in range(len(expected.manifest)):
        np.testing.assert_array_equal(found.prob_map(row), expected.prob_map(row))


def test_what_the_networks_predict_is_cached_exactly(watched, manifest, tmp_path):
    kept = cache_predictions(watched(), manifest, tmp_path / "kept")
    expected = list(watched().probabilities(manifest["path"]))
    for again in (kept, load_predictions(tmp_path / "kept")):
        assert again.manifest.to_dict("list") == manifest.assign(pixel_aspect=1.0).to_dict("list")
        assert (again.networks, again.flip, again.folder) == (NETWORKS, False, tmp_path / "kept")
        np.testing.assert_array_equal(again.probability, [answer.probability for answer in expected])
        assert again.probability.dtype == np.float64
        for row in READABLE:
            prob_map = again.prob_map(row)
            np.testing.assert_allclose(prob_map, expected[row].prob_map, atol=0.5001 / 255)
            np.testing.assert_array_equal(255 * prob_map, np.round(255 * expected[row].prob_map))
    assert len(set(kept.probability[READABLE])) > 1


def test_a_bad_file_is_kept_as_an_error(watched, manifest, tmp_path):
    kept = cache_predictions(watched(), manifest, tmp_path / "kept")
    assert [bool(error) for error in kept.errors] == [row == 3 for row in range(9)]
    assert "i3.dcm" in kept.errors[3]
    assert math.isnan(kept.probability[3])
    assert kept.prob_map(3) is None
    assert not (tmp_path / "kept/maps/i3.png").exists()


def test_all_bad(watched, manifest, tmp_path):
    kept = cache_predictions(watched(), manifest.assign(path="absent.dcm"), tmp_path / "kept")
    assert np.isnan(kept.probability).all()
    assert all(kept.errors)


def test_seconds_are_those_of_an_image(watched, manifest, tmp_path):
    kept = cache_predictions(watched(), manifest, tmp_path / "kept")
    table = tmp_path / "kept/predictions.csv"
    rows = [line.split(",", 3) for line in table.read_text().splitlines()]
    assert kept.seconds > 0
    lines = [",".join([name, p, f"{n}.5", error]) for n, (name, p, _, error) in enumerate(rows[1:])]
    table.write_text("\n".join([",".join(rows[0]), *lines, ""]))
    assert load_predictions(tmp_path / "kept").seconds == pytest.approx(4.5)


def test_done_is_not_done_again(watched, manifest, tmp_path):
    first = cache_predictions(watched(), manifest, tmp_path / "kept")
    again = watched()
    assert_same(cache_predictions(again, manifest, tmp_path / "kept"), first)
    assert again.seen == ["i3"]  # which could not be read


def test_what_could_not_be_read_is_tried_again(watched, manifest, tmp_path):
    good = manifest[manifest["image_id"] != "i3"]
    hidden = tmp_path / "hidden"
    (tmp_path / "dicom").rename(hidden)
    assert all(cache_predictions(watched(), good, tmp_path / "kept").errors)
    hidden.rename(tmp_path / "dicom")
    assert_same(
        cache_predictions(watched(), good, tmp_path / "kept"), cache_predictions(watched(), good, tmp_path / "other")
    )


@pytest.mark.parametrize("name", ["../escaped", "a/b", "", "i1"])
def test_ids_that_name_no_file_of_their_own(watched, manifest, tmp_path, name):
    names = manifest["image_id"].where(manifest.index != 2, name)
    with pytest.raises(ValueError, match="occurs twice or cannot be a file name"):
        cache_predictions(watched(), manifest.assign(image_id=names), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_damaged_table(watched, manifest, tmp_path):
    cache_predictions(watched(), manifest, tmp_path / "kept")
    table = tmp_path / "kept/predictions.csv"
    whole = table.read_text()
    for damaged in (whole.replace("probability", "p"), whole.replace("i4,", "i4,abc")):
        table.write_text(damaged)
        with pytest.raises(ValueError, match=r"kept/predictions\.csv: .*run `pneumoseg cache-predictions` again"):
            load_predictions(tmp_path / "kept")


@pytest.mark.parametrize("stop", [0, 1, 4, 8])
def test_the_next_process_goes_on_where_one_was_stopped(watched, manifest, tmp_path, stop):
    whole = cache_predictions(watched(), manifest, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cache_predictions(watched(stop, batch_size=1), manifest, tmp_path / "kept")
    with pytest.raises(ValueError, match="not all images are predicted"):
        load_predictions(tmp_path / "kept")
    second = watched()
    assert_same(cache_predictions(second, manifest, tmp_path / "kept"), whole)
    assert second.seen == ["i3"] * (stop > 3) + manifest["image_id"].tolist()[stop:]


@pytest.mark.parametrize("cut", ["in the id", "in a letter of two bytes", "in front of the line's end"])
def test_a_line_that_was_cut_off_is_done_again(watched, manifest, tmp_path, cut):
    manifest = manifest.assign(path=manifest["path"].where(manifest.index != 3, "absent/Größe.dcm"))
    whole = cache_predictions(watched(), manifest, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cache_predictions(watched(4, batch_size=1), manifest, tmp_path / "kept")
    partial = tmp_path / "kept/partial.csv"
    content = partial.read_bytes()
    place = {"in the id": b"3,nan", "in a letter of two bytes": b"\xb6", "in front of the line's end": content[-1:]}
    partial.write_bytes(content[: content.rindex(place[cut])])
    second = watched()
    assert_same(cache_predictions(second, manifest, tmp_path / "kept"), whole)
    assert second.seen == ["Größe", *manifest["image_id"].tolist()[4:]]


def test_stopped_again_and_again(watched, manifest, tmp_path):
    whole = cache_predictions(watched(), manifest, tmp_path / "whole")
    seen = []
    for _ in range(7):
        pipeline = watched(2)
        try:
            cache_predictions(pipeline, manifest, tmp_path / "kept")
        except KeyboardInterrupt:
            seen.append(pipeline.seen)
    # The fourth image, which cannot be read, is tried each time.
    done = [name for name in itertools.chain(*seen) if name != "i3"]
    assert done == [name for name in manifest["image_id"].tolist()[:8] if name != "i3"]
    assert_same(load_predictions(tmp_path / "kept"), whole)


def test_predictions_of_others_are_replaced(watched, manifest, tmp_path):
    cache_predictions(watched(), manifest, tmp_path / "kept")
    for pipeline, table in (
        (watched(networks=NETWORKS | {"segmenter_1": "c"}), manifest),
        (watched(flip=True), manifest),
        (watched(engine=Engine("openvino", "int8", "ab")), manifest),
        (watched(engine=Engine("openvino", "int8", "cd")), manifest),
        (watched(), manifest[2:5]),
        (watched(), manifest[2:5].assign(rle="0 1")),
    ):
        kept = cache_predictions(pipeline, table, tmp_path / "kept")
        assert pipeline.seen == table["image_id"].tolist()
        assert (kept.networks, kept.flip, kept.engine) == (pipeline.networks, pipeline.flip, pipeline.engine)
        assert kept.manifest["rle"].tolist() == table["rle"].tolist()
        names = {path.stem for path in (tmp_path / "kept/maps").iterdir()}
        assert names == set(table["image_id"]) - {"i3"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_something_else_is_left_alone(watched, manifest, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something other than predictions"):
        cache_predictions(watched(), manifest, tmp_path / "kept")
    assert (tmp_path / "kept/notes.txt").read_text() == "mine"
    (tmp_path / "kept/notes.txt").unlink()
    cache_predictions(watched(), manifest, tmp_path / "kept")  # an empty one will do


def test_an_empty_manifest_is_refused(watched, manifest, tmp_path):
    with pytest.raises(ValueError, match="no row"):
        cache_predictions(watched(), manifest[:0], tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match="holds no predictions"):
        load_predictions(tmp_path / "kept")


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"networks": {}}), json.dumps({"networks": 3})])
def test_damaged_identity(watched, manifest, tmp_path, content):
    cache_predictions(watched(), manifest, tmp_path / "kept")
    (tmp_path / "kept/predictions.json").write_text(content)
    with pytest.raises(ValueError, match=r"predictions\.json"):
        load_predictions(tmp_path / "kept")
    again = watched()
    cache_predictions(again, manifest, tmp_path / "kept")
    assert len(again.seen) == 9


def test_a_table_of_other_images_is_an_error(watched, manifest, tmp_path):
    cache_predictions(watched(), manifest, tmp_path / "kept")
    table = tmp_path / "kept/predictions.csv"
    lines = table.read_text().splitlines(keepends=True)
    for content in (lines[:-1], [*lines[:-1], lines[-1].strip()], [lines[0], lines[2], lines[1], *lines[3:]]):
        table.write_text("".join(content))
        with pytest.raises(ValueError, match="different images"):
            load_predictions(tmp_path / "kept")


def test_damaged_maps(watched, manifest, tmp_path):
    kept = cache_predictions(watched(), manifest, tmp_path / "kept")
    path = tmp_path / "kept/maps/i5.png"
    content, expected = path.read_bytes(), kept.prob_map(5)
    assert Image.open(path).size == (SIZE, SIZE)
    # Cut off anywhere, or with a byte changed, it is the same map or an error, and one that says what to do.
    damaged = [content[:length] for length in range(len(content))]
    damaged += [content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :] for at in range(len(content))]
    refused = []
    for bad in damaged:
        path.write_bytes(bad)
        try:
            np.testing.assert_array_equal(kept.prob_map(5), expected)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 0.8 * len(damaged)
    assert all("i5.png" in message and "run `pneumoseg cache-predictions` again" in message for message in refused)
    path.unlink()
    with pytest.raises(ValueError, match=r"i5\.png.*run `pneumoseg cache-predictions` again"):
        kept.prob_map(5)


def test_select_some_of_the_images(watched, manifest, tmp_path):
    kept = cache_predictions(watched(), manifest, tmp_path / "kept")
    some = kept.select(np.isin(np.arange(9), [1, 3, 8]))
    assert some.manifest["image_id"].tolist() == ["i1", "i3", "i8"]
    assert some.manifest.index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(some.probability, kept.probability[[1, 3, 8]])
    assert [bool(error) for error in some.errors] == [False, True, False]
    for row, original in enumerate([1, 3, 8]):
        np.testing.assert_array_equal(some.prob_map(row), kept.prob_map(original))
    assert (some.networks, some.flip, some.seconds) == (kept.networks, kept.flip, kept.seconds)
    assert len(kept.select(np.zeros(9, bool)).manifest) == 0


def test_pooled_predictions_are_those_of_their_parts(tmp_path):
    rng = np.random.default_rng(0)
    maps = [rng.integers(256, size=(4, 4)).astype(np.uint8) for _ in range(5)]
    masks = [rng.random((6, 5)) < 0.5 for _ in range(5)]
    first = predictions_of(tmp_path / "a", [maps[0], None], masks[:2], [0.1, np.nan])
    second = predictions_of(tmp_path / "b", maps[2:], masks[2:], [0.3, 0.4, 0.5])
    names = second.manifest.assign(image_id=["i2", "i3", "i4"])
    second = dataclasses.replace(second, manifest=names, seconds=1.0, networks={"segmenter_1": "b"})
    both = pool([dataclasses.replace(first, networks={"segmenter_1": "a"}), second])
    assert both.manifest["image_id"].tolist() == ["i0", "i1", "i2", "i3", "i4"]
    assert both.manifest["rle"].tolist() == [rle.encode(mask) for mask in masks]
    np.testing.assert_array_equal(both.probability, [0.1, np.nan, 0.3, 0.4, 0.5])
    assert [bool(error) for error in both.errors] == [False, True, False, False, False]
    for row in (0, 2, 3, 4):
        np.testing.assert_array_equal(both.prob_map(row), maps[row] / 255)
    assert both.prob_map(1) is None
    assert both.seconds == pytest.approx((2 * 0.5 + 3 * 1.0) / 5)
    assert sorted(both.networks.values()) == ["a", "b"]
    np.testing.assert_array_equal(both.select(np.arange(5) > 2).prob_map(0), maps[3] / 255)


def test_what_cannot_be_pooled(tmp_path):
    masks, maps = [np.ones((4, 4), bool)], [np.zeros((4, 4), np.uint8)]
    one = predictions_of(tmp_path, maps, masks, [0.1])
    with pytest.raises(ValueError, match="no predictions"):
        pool([])
    with pytest.raises(ValueError, match="i0 is in more than one"):
        pool([one, one])
    other = dataclasses.replace(one, flip=True, manifest=one.manifest.assign(image_id="i1"))
    with pytest.raises(ValueError, match="some of the predictions average mirrored images"):
        pool([one, other])
    other = dataclasses.replace(other, flip=False, engine=Engine("openvino", "int8"))
    with pytest.raises(ValueError, match=r"by different engines: Keras, float32; OpenVINO, int8$"):
        pool([one, other])


def test_predictions_of_keras_are_told_apart_from_no_others_and_those_of_an_engine_are(watched, manifest, tmp_path):
    cache_predictions(watched(), manifest, tmp_path / "kept")
    assert json.loads((tmp_path / "kept/predictions.json").read_text()) == {"networks": NETWORKS, "flip": False}
    assert load_predictions(tmp_path / "kept").engine == Engine()
    engine = Engine("onnx", "float32", "ab")
    cache_predictions(watched(engine=engine), manifest, tmp_path / "kept")
    again = watched(engine=engine)
    assert cache_predictions(again, manifest, tmp_path / "kept").engine == engine
    assert again.seen == ["i3"]  # only the damaged file, which may be readable now


@pytest.mark.parametrize("lost", ["manifest.csv", "predictions.csv"])
def test_folder_that_lost_a_file_is_written_again(watched, manifest, tmp_path, lost):
    first = cache_predictions(watched(), manifest, tmp_path / "kept")
    (tmp_path / "kept" / lost).unlink()
    assert_same(cache_predictions(watched(), manifest, tmp_path / "kept"), first)


def test_an_image_whose_pixels_have_another_shape_than_its_row_says_is_an_error(watched, manifest, tmp_path):
    path = write_dicom(tmp_path / "flat.dcm", np.full((8, 8), 9, np.uint8), PixelAspectRatio=[2, 1])
    row = manifest.head(1).assign(path=str(path), rows=8, columns=8)
    unlike = cache_predictions(watched(), row, tmp_path / "unlike")
    assert "2 times as high as wide, its row in the manifest says 1" in unlike.errors[0]
    alike = cache_predictions(watched(), row.assign(pixel_aspect=2.0), tmp_path / "alike")
    assert list(alike.errors) == [""]
