"""The staged decision, with networks whose output can be worked out by hand."""

import dataclasses
import json
import math
import tracemalloc

import keras
import numpy as np
import pytest

from pneumoseg import rle
from pneumoseg.dicom import DamagedError, DicomError
from pneumoseg.inference import Pipeline, assemble_pipeline, load_pipeline
from pneumoseg.models.bundle import BundleError, load_bundle, save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from tests.conftest import write_dicom

SIZE = 64


@pytest.fixture(scope="module")
def pipeline():
    """Probability of pneumothorax: the brightest pixel / 255; of a pixel: its own value / 255."""
    image = keras.Input((SIZE, SIZE, 1))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    classifier = keras.Model(image, keras.layers.GlobalMaxPooling2D()(scaled))
    segmenter = keras.Model(image, keras.layers.Rescaling(1.0)(scaled))
    # 3500 px at 1024 x 1024 are 13.67 px at 64 x 64.
    return Pipeline(classifier, segmenter, classifier_threshold=0.5, mask_threshold=0.75, batch_size=2)


def picture(value=0, height=0, width=0, shape=(SIZE, SIZE)):
    image = np.full(shape, 20, np.uint8)
    image[5 : 5 + height, 7 : 7 + width] = value
    return image


@pytest.mark.parametrize(
    ("image", "stage", "area"),
    [
        (picture(), "classifier", 0),
        (picture(120, 10, 10), "classifier", 0),  # .47, below the classifier's threshold
        (picture(150, 10, 10), "segmenter", 0),  # .59, above it, but no pixel reaches .75
        (picture(255, 1, 13), "elimination", 0),  # 13 < 13.67
        (picture(255, 1, 14), "mask", 14),
        (picture(255, 10, 10), "mask", 100),
    ],
)
def test_each_stage_decides(pipeline, image, stage, area):
    result = pipeline.predict(image)
    assert (result.stage, result.area_px, result.has_pneumothorax) == (stage, area, area > 0)
    assert result.probability == pytest.approx(image.max() / 255, abs=1e-6)
    assert result.mask.shape == image.shape
    if area:
        np.testing.assert_array_equal(result.mask, image == 255)
        assert result.rle == rle.encode(image == 255)


def test_threshold_itself_is_not_above_it(pipeline):
    image = picture(255, 4, 4)
    assert dataclasses.replace(pipeline, classifier_threshold=1.0).predict(image).stage == "classifier"
    assert dataclasses.replace(pipeline, mask_threshold=1.0).predict(image).stage == "segmenter"


def test_without_classifier_all_images_are_segmented(pipeline):
    alone = dataclasses.replace(pipeline, classifier=None)
    assert alone.predict(picture(150, 10, 10)).stage == "segmenter"
    result = alone.predict(picture())
    assert result.stage == "segmenter"
    assert math.isnan(result.probability)
    assert alone.predict(picture(255, 10, 10)).area_px == 100


def test_mask_is_on_the_images_own_grid(pipeline):
    image = np.full((128, 96), 20, np.uint8)
    image[32:64, 16:48] = 255  # whole pixels of the network's grid, whose scale is one half
    result = pipeline.predict(image)
    assert result.shape == (128, 96)
    # Bilinear between 20/255 inside the rim and 1: the threshold of .75 lies within half a pixel of the edge.
    assert result.mask[33:63, 17:47].all()
    outside = result.mask.copy()
    outside[32:64, 16:48] = False
    assert not outside.any()


def test_many_in_order_whatever_the_batch(pipeline, tmp_path):
    rng = np.random.default_rng(0)
    sources, expected = [], []
    for number in range(37):  # more than two chunks of 16, the last one ragged
        image = picture(int(rng.choice([0, 120, 150, 255])), 9, 9)
        sources.append(image if number % 3 else write_dicom(tmp_path / f"i{number}.dcm", image))
        expected.append(81 if (image == 255).any() else 0)
    results = list(pipeline.predict_many(iter(sources)))
    assert [result.area_px for result in results] == expected
    assert [result.image_id for result in results[::3]] == [f"i{number}" for number in range(0, 37, 3)]
    for result, source in zip(results, sources, strict=True):
        assert result.rle == pipeline.predict(source).rle


def test_bad_file_is_a_result_and_the_run_goes_on(pipeline, tmp_path):
    good = write_dicom(tmp_path / "good.dcm", picture(255, 10, 10))
    half = tmp_path / "half.dcm"
    half.write_bytes(good.read_bytes()[:-1000])
    results = list(pipeline.predict_many([good, half, tmp_path / "absent.dcm", good]))
    assert [result.stage for result in results] == ["mask", "error", "error", "mask"]
    assert isinstance(results[1].error, DamagedError)
    assert (results[1].rle, results[1].has_pneumothorax, results[1].area_px) == ("-1", False, 0)
    assert math.isnan(results[1].probability)
    with pytest.raises(DicomError, match=r"absent\.dcm"):
        pipeline.predict(tmp_path / "absent.dcm")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
def test_what_is_no_image_is_refused(pipeline, array):
    with pytest.raises(ValueError, match=r"an image is uint8, \(H, W\)"):
        pipeline.predict(array)


def test_mistakes_with_the_arguments(pipeline):
    with pytest.raises(ValueError, match="takes many sources"):
        next(pipeline.predict_many("a.dcm"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        dataclasses.replace(pipeline, batch_size=0)


def test_jupyter_gets_a_picture(pipeline, tmp_path):
    assert pipeline.predict(picture(255, 10, 10))._repr_png_().startswith(b"\x89PNG")
    (error,) = pipeline.predict_many([tmp_path / "absent.dcm"])
    assert error._repr_png_() is None
    assert "absent.dcm" in repr(error)


def test_no_images(pipeline):
    assert list(pipeline.predict_many([])) == []


def test_memory_does_not_grow_with_the_number_of_images(pipeline):
    def peak(count):
        tracemalloc.start()
        for _ in pipeline.predict_many(picture(255, 10, 10, (512, 512)) for _ in range(count)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(40)
    # Three hundred more images would be 75 MB if they were kept.
    assert peak(400) - peak(100) < 4e6


def test_show_draws_the_outline(pipeline, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", picture(255, 10, 10))
    (axes,) = pipeline.predict(path).show().axes
    assert "pneumothorax, 100 px" in axes.get_title()
    assert len(axes.images) == 1
    (outline,) = axes.collections
    xs, ys = outline.get_paths()[0].vertices.T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (6.5, 16.5, 4.5, 14.5)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    keras.utils.set_random_seed(0)
    arguments = {"backbone": "mobilenet_025", "image_size": 32}
    save_bundle(
        folder / "c", build_classifier(**arguments, weights=None), "classifier", arguments, {"probability": 0.3}
    )
    arguments = {"architecture": "fpn", "backbone": "resnet18", "image_size": 32, "decoder_filters": 16}
    save_bundle(folder / "s", build_segmenter(**arguments, weights=None), "segmenter", arguments, {"probability": 0.6})
    return folder


def test_assembled_and_loaded(bundles, tmp_path):
    for _ in range(2):  # a second time over the first
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p", minimum_area=99)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    pipeline = load_pipeline(tmp_path / "p", batch_size=3)
    assert (pipeline.classifier_threshold, pipeline.mask_threshold) == (0.3, 0.6)
    assert (pipeline.minimum_area, pipeline.batch_size) == (99, 3)
    result = pipeline.predict(picture(255, 10, 10))
    assert result.shape == (64, 64)
    expected = load_bundle(bundles / "c").model(picture(255, 10, 10).reshape(1, 32, 2, 32, 2, 1).mean((2, 4)).round())
    assert result.probability == pytest.approx(float(expected[0, 0]), abs=1e-5)


def test_numbers_can_be_chosen_at_assembly(bundles, tmp_path):
    assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p", classifier_threshold=0.9, mask_threshold=0.1)
    pipeline = load_pipeline(tmp_path / "p")
    assert (pipeline.classifier_threshold, pipeline.mask_threshold, pipeline.minimum_area) == (0.9, 0.1, 3500)


def test_assembly_refuses_what_does_not_fit(bundles, tmp_path):
    with pytest.raises(ValueError, match=r"classifier_threshold is 1\.5"):
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p", classifier_threshold=1.5)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="something else than a pipeline"):
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "other")
    with pytest.raises(BundleError):
        assemble_pipeline(tmp_path / "absent", bundles / "s", tmp_path / "p", classifier_threshold=0.5)
    with pytest.raises(BundleError, match="holds a segmenter, expected a classifier"):
        assemble_pipeline(bundles / "s", bundles / "c", tmp_path / "p")
    bundle = load_bundle(bundles / "c")
    save_bundle(tmp_path / "without", bundle.model, "classifier", bundle.arguments)
    with pytest.raises(BundleError, match="no threshold named probability"):
        assemble_pipeline(tmp_path / "without", bundles / "s", tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"pipeline\.json"),
        ("[]", "expected the numbers"),
        ('{"classifier_threshold": 0.5}', "expected the numbers"),
        ('{"classifier_threshold": 0.5, "mask_threshold": true, "minimum_area": 1}', "mask_threshold is True"),
        ('{"classifier_threshold": 0.5, "mask_threshold": NaN, "minimum_area": 1}', "mask_threshold is nan"),
        ('{"classifier_threshold": 0.5, "mask_threshold": 0.5, "minimum_area": -1}', "minimum_area is -1"),
    ],
)
def test_damaged_numbers(bundles, tmp_path, content, message):
    assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p")
    assert json.loads((tmp_path / "p/pipeline.json").read_text())["minimum_area"] == 3500
    (tmp_path / "p/pipeline.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        load_pipeline(tmp_path / "p")


def test_swapped_or_missing_bundles(bundles, tmp_path):
    assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p")
    (tmp_path / "p/classifier").rename(tmp_path / "p/c")
    (tmp_path / "p/segmenter").rename(tmp_path / "p/classifier")
    with pytest.raises(BundleError, match="holds a segmenter, expected a classifier"):
        load_pipeline(tmp_path / "p")
    with pytest.raises(BundleError, match="no pipeline"):
        load_pipeline(tmp_path)
