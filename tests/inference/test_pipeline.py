"""The staged decision, with networks whose output can be worked out by hand."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, quantize, remove_small_components
from pneumoseg.geometry import letterbox_array, unletterbox
from pneumoseg.image_errors import DamagedError, ImageError
from pneumoseg.inference import Pipeline
from tests.conftest import write_dicom
from tests.networks import brightest, identity, left_half, weighted

SIZE = 64
# 3500 px at 1024 x 1024 are 13.67 px at 64 x 64.
RULE = DecisionRule(classifier_threshold=0.5, mask_threshold=0.75)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline([brightest(SIZE)], [identity(SIZE)], RULE, batch_size=2)


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


def confident(count, drawn=100):
    """So many pixels drawn, of which so many are above .9."""
    image = picture()
    image.flat[:drawn] = 220  # .86
    image.flat[:count] = 255
    return image


@pytest.mark.parametrize(
    ("image", "stage"),
    [
        (confident(10), "mask"),
        (confident(9), "triplet"),
        (confident(9, drawn=13), "triplet"),  # too small as well, but the triplet rule comes first
        (confident(13, drawn=13), "elimination"),
        (confident(0, drawn=0), "classifier"),
        (picture(150, 10, 10), "segmenter"),  # the rule has nothing to remove where nothing is drawn
    ],
)
def test_triplet_rule_stands_between_segmenter_and_elimination(pipeline, image, stage):
    rule = replace(RULE, top_threshold=0.9, top_area=2560)  # 10 px at 64 x 64
    result = replace(pipeline, rule=rule).predict(image)
    assert (result.stage, result.area_px) == (stage, 100 if stage == "mask" else 0)


def test_threshold_itself_is_not_above_it(pipeline):
    image = picture(255, 4, 4)
    assert replace(pipeline, rule=replace(RULE, classifier_threshold=1.0)).predict(image).stage == "classifier"
    assert replace(pipeline, rule=replace(RULE, mask_threshold=1.0)).predict(image).stage == "segmenter"


def test_without_classifier_all_images_are_segmented(pipeline):
    alone = replace(pipeline, classifiers=[])
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


def test_several_networks_are_averaged():
    image = picture(240, 10, 10)
    classifiers = [brightest(SIZE), brightest(SIZE, 0.5), brightest(32, 0.3)]  # each sees its own size
    pipeline = Pipeline(classifiers, [identity(SIZE), identity(SIZE, 0.6)], RULE)
    (answer,) = pipeline.probabilities([image])
    # The 32 x 32 image averages 2 x 2 pixels: the block from (5, 7) on leaves whole ones inside.
    assert answer.probability == pytest.approx((1 + 0.5 + 0.3) / 3 * 240 / 255, abs=1e-6)
    np.testing.assert_allclose(answer.prob_map, image * 0.8 / 255, atol=1e-6)
    # .8 of .94 is above the mask's threshold of .75, what the second network alone says is not.
    assert pipeline.predict(image).area_px == 100
    assert Pipeline(classifiers, [identity(SIZE, 0.6)], RULE).predict(image).stage == "segmenter"


def test_segmenters_of_several_sizes_cannot_be_averaged():
    with pytest.raises(ValueError, match=r"expected one image size, got \[32, 64\]"):
        Pipeline([], [identity(64), identity(32)])
    with pytest.raises(ValueError, match=r"one image size, got \[\]"):
        Pipeline([brightest()], [])


@pytest.mark.parametrize("width", [SIZE, 63, 40])
def test_flip_averages_the_mirrored_image_in(width):
    image = np.random.default_rng(0).integers(256, size=(SIZE, width)).astype(np.uint8)
    weights = (np.arange(SIZE) / (SIZE - 1)) ** 2
    pipeline = Pipeline([left_half(SIZE)], [weighted(weights)], batch_size=3)
    square = np.zeros((SIZE, SIZE))
    left = (SIZE - width) // 2
    square[:, left : left + width] = image
    (plain,) = pipeline.probabilities([image])
    (flipped,) = replace(pipeline, flip=True).probabilities([image])
    halves = square[:, : SIZE // 2].max() / 255, square[:, SIZE // 2 :].max() / 255
    assert plain.probability == pytest.approx(halves[0], abs=1e-6)
    assert flipped.probability == pytest.approx(sum(halves) / 2, abs=1e-6)
    for found, expected in ((plain, weights), (flipped, (weights + weights[::-1]) / 2)):
        np.testing.assert_allclose(found.prob_map, square * expected / 255, atol=1e-6)


def test_flip_tells_sides_apart_in_a_batch():
    bright_left, bright_right = np.zeros((SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    bright_left[:, 3], bright_right[:, -4] = 200, 100
    pipeline = Pipeline([left_half(SIZE)], [identity(SIZE)], flip=True)
    answers = list(pipeline.probabilities([bright_left, bright_right]))
    assert [answer.probability for answer in answers] == pytest.approx([100 / 255, 50 / 255])
    np.testing.assert_allclose([255 * answer.prob_map for answer in answers], [bright_left, bright_right], rtol=1e-6)


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


class OfItsBatch:
    """A network whose output for an image depends, as that of real ones does in the last bits, on the whole batch."""

    name, parameters = "of_its_batch", 0

    def __init__(self, image_size, maps, factor):
        self.image_size, self.maps, self.factor = image_size, maps, factor

    def __call__(self, images):
        batch = (images.astype(np.float32) / 255 * self.factor + images.mean(dtype=np.float32) / 1e4) / len(
            images
        ) ** 0.1
        return batch if self.maps else batch.max(axis=(1, 2))


def plainly(pipeline, sources, keep_maps):
    """Return each image's probability, code and map, computed one after the other."""

    def outputs(networks, images):
        for first in range(0, len(images), pipeline.batch_size):
            batch = images[first : first + pipeline.batch_size]
            several = [
                n(np.stack([letterbox_array(image, n.image_size) for image in batch])[..., None]) for n in networks
            ]
            yield from np.mean(several, axis=0)

    answers = []
    for start in range(0, len(sources), 8 * pipeline.batch_size):
        chunk = [
            None if isinstance(source, str) else source for source in sources[start : start + 8 * pipeline.batch_size]
        ]
        readable = [image for image in chunk if image is not None]
        probabilities = [float(output[0]) for output in outputs(pipeline.classifiers, readable)]
        passed = [probability > pipeline.rule.classifier_threshold for probability in probabilities]
        drawn = outputs(pipeline.segmenters, [image for image, above in zip(readable, passed, strict=True) if above])
        others = outputs(
            pipeline.segmenters, [image for image, above in zip(readable, passed, strict=True) if not above]
        )
        of_readable = iter(zip(probabilities, passed, strict=True))
        for image in chunk:
            if image is None:
                answers.append((None, "-1", None))
                continue
            probability, above = next(of_readable)
            prob_map = next(drawn)[..., 0] if above else next(others)[..., 0] if keep_maps else None
            code = "-1"
            if above:
                multiples = unletterbox(quantize(prob_map), *image.shape)
                code = rle.encode(remove_small_components(multiples > np.float32(255 * pipeline.rule.mask_threshold)))
            answers.append((probability, code, prob_map if keep_maps else None))
    return answers


@pytest.mark.parametrize("keep_maps", [False, True])
def test_the_same_to_the_bit_as_one_after_the_other(keep_maps):
    classifiers = [OfItsBatch(32, False, 0.9), OfItsBatch(48, False, 1.0)]
    several = Pipeline(classifiers, [OfItsBatch(48, True, 1.0), OfItsBatch(48, True, 0.8)], RULE, batch_size=3)
    rng = np.random.default_rng(0)
    sources = [picture(int(rng.integers(20, 256)), *rng.integers(3, 40, 2), rng.integers(60, 90, 2)) for _ in range(61)]
    for number in (0, 7, 8, 23, 50):
        sources[number] = "absent.dcm"
    results = list(several.predict_many(iter(sources), keep_maps=keep_maps))
    assert {result.stage for result in results} == {"error", "classifier", "segmenter", "mask", "elimination"}
    for result, (probability, code, prob_map) in zip(results, plainly(several, sources, keep_maps), strict=True):
        assert (None if result.error else result.probability, result.rle) == (probability, code)
        np.testing.assert_array_equal(result.prob_map, prob_map)


def test_probabilities_decide_nothing(pipeline, tmp_path):
    images = [picture(value, 9, 9) for value in (30, 120, 255) * 6]
    sources = [write_dicom(tmp_path / f"i{number}.dcm", image) for number, image in enumerate(images)]
    sources[7:7] = [tmp_path / "absent.dcm"]
    answers = list(pipeline.probabilities(iter(sources)))
    assert [answer.image_id for answer in answers] == [source.stem for source in sources]
    absent = answers.pop(7)
    assert math.isnan(absent.probability)
    assert absent.prob_map is None
    assert isinstance(absent.error, ImageError)
    assert all(answer.error is None for answer in answers)
    # One not above the classifier's threshold, too, is segmented.
    np.testing.assert_allclose([255 * answer.prob_map for answer in answers], images, rtol=1e-6)
    assert [answer.probability for answer in answers] == pytest.approx([image.max() / 255 for image in images])


@pytest.mark.parametrize("flip", [False, True])
def test_maps_are_kept_for_all_readable_images_and_change_no_decision(pipeline, tmp_path, flip):
    pipeline = replace(pipeline, flip=flip)
    images = [picture(value, 9, 9) for value in (30, 255, 120, 255, 150) * 4]
    sources = [*images[:7], tmp_path / "absent.dcm", *images[7:]]
    plain, kept = list(pipeline.predict_many(sources)), list(pipeline.predict_many(sources, keep_maps=True))
    assert all(result.prob_map is None for result in plain)
    assert [(r.rle, r.stage, r.probability) for r in kept if not r.error] == [
        (r.rle, r.stage, r.probability) for r in plain if not r.error
    ]
    assert kept.pop(7).prob_map is None
    assert {result.stage for result in kept} == {"classifier", "segmenter", "mask"}
    for result, image in zip(kept, images, strict=True):
        assert (result.prob_map.dtype, result.prob_map.shape) == (np.float32, (SIZE, SIZE))
        np.testing.assert_allclose(255 * result.prob_map, image, rtol=1e-6)


def test_segmenter_sees_the_same_batches_whether_maps_are_kept_or_not(pipeline, monkeypatch):
    segmenter, seen = identity(SIZE), []
    compute = segmenter._graph
    monkeypatch.setattr(segmenter, "_graph", lambda x: seen.append(x.max(axis=(1, 2, 3)).tolist()) or compute(x))
    images = [picture(value, 9, 9) for value in (30, 255, 120, 240, 60, 230)]
    several = replace(pipeline, segmenters=[segmenter])
    list(several.predict_many(images))
    assert seen == [[255, 240], [230]]
    seen.clear()
    list(several.predict_many(images, keep_maps=True))
    assert sorted(seen) == [[30, 120], [60], [230], [255, 240]]


def test_results_come_in_whole_chunks(pipeline):
    taken, images = [], [picture()] * 40
    results = pipeline.predict_many(taken.append(1) or image for image in images)
    assert pipeline.chunk_size == 16
    next(results)
    assert len(taken) == 32  # a chunk that is read ahead
    list(results)


@pytest.mark.parametrize(
    ("elements", "spacing", "source", "area"),
    [
        ({"PixelSpacing": [5.0, 5.0]}, (5, 5), "PixelSpacing", 2500),  # 64 x 5 = 320 mm, 100 px of 25 mm2
        ({"ImagerPixelSpacing": [4.0, 4.0]}, (4, 4), "ImagerPixelSpacing", 1600),
        ({"PixelSpacing": [1.0, 1.0]}, (1, 1), "PixelSpacing", math.nan),  # 64 mm are too small for a chest
        ({}, None, "", math.nan),
    ],
)
def test_area_in_mm2_where_the_spacing_can_be_believed(pipeline, tmp_path, elements, spacing, source, area):
    result = pipeline.predict(write_dicom(tmp_path / "a.dcm", picture(255, 10, 10), **elements))
    assert (result.pixel_spacing, result.spacing_source, result.pixel_aspect) == (spacing, source, 1)
    assert result.area_mm2 == pytest.approx(area, nan_ok=True)
    assert math.isnan(pipeline.predict(picture(255, 10, 10)).area_mm2)


@pytest.mark.parametrize("elements", [{"PixelSpacing": [8.0, 4.0]}, {"PixelAspectRatio": [2, 1]}])
def test_networks_see_square_pixels_and_the_mask_is_on_the_images_own_grid(pipeline, tmp_path, elements):
    """Pixels twice as high as wide: 32 rows become the 64 of the network, and the columns stay."""
    image = picture(255, 10, 6, (32, 64))
    path = write_dicom(tmp_path / "a.dcm", image, **elements)
    (result,) = pipeline.predict_many([path], keep_maps=True)
    assert (result.shape, result.pixel_aspect) == ((32, 64), 2)
    # Away from the edges of the block, between which the values are interpolated.
    assert (255 * result.prob_map[11:29, 7:13] > 254).all()
    assert (255 * result.prob_map[32:] < 21).all()
    np.testing.assert_array_equal(result.mask, image == 255)
    assert result.show().axes[0].get_aspect() == 2
    (answer,) = pipeline.probabilities([path])
    np.testing.assert_array_equal(answer.prob_map, result.prob_map)


def test_bad_file_is_a_result_and_the_run_goes_on(pipeline, tmp_path):
    good = write_dicom(tmp_path / "good.dcm", picture(255, 10, 10))
    half = tmp_path / "half.dcm"
    half.write_bytes(good.read_bytes()[:-1000])
    results = list(pipeline.predict_many([good, half, tmp_path / "absent.dcm", good]))
    assert [result.stage for result in results] == ["mask", "error", "error", "mask"]
    assert isinstance(results[1].error, DamagedError)
    assert (results[1].rle, results[1].has_pneumothorax, results[1].area_px) == ("-1", False, 0)
    assert math.isnan(results[1].probability)
    with pytest.raises(ImageError, match=r"absent\.dcm"):
        pipeline.predict(tmp_path / "absent.dcm")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
def test_what_is_no_image_is_refused(pipeline, array):
    with pytest.raises(ValueError, match=r"expected an image, uint8 \(H, W\)"):
        pipeline.predict(array)


def test_mistakes_with_the_arguments(pipeline):
    with pytest.raises(ValueError, match="expected many sources, got one path"):
        next(pipeline.predict_many("a.dcm"))
    with pytest.raises(ValueError, match="expected many sources, got one path"):
        next(pipeline.probabilities("a.dcm"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        replace(pipeline, batch_size=0)


def test_jupyter_gets_a_picture(pipeline, tmp_path):
    assert pipeline.predict(picture(255, 10, 10))._repr_png_().startswith(b"\x89PNG")
    (error,) = pipeline.predict_many([tmp_path / "absent.dcm"])
    assert error._repr_png_() is None
    assert "absent.dcm" in repr(error)


def test_jupyter_gets_a_table_of_the_networks(pipeline):
    page = replace(pipeline, origin={"folder": "a<b"}, flip=True)._repr_html_()
    assert page.count("64 × 64") == 2
    assert "mask_threshold 0.75" in page
    assert "mirrored images averaged: yes" in page
    assert "folder: a&lt;b" in page


def test_no_images(pipeline):
    assert list(pipeline.predict_many([])) == []
    assert list(pipeline.probabilities([])) == []


@pytest.mark.parametrize("method", ["predict_many", "probabilities"])
def test_memory_does_not_grow_with_the_number_of_images(pipeline, method):
    def peak(count):
        tracemalloc.start()
        for _ in getattr(pipeline, method)(picture(255, 10, 10, (512, 512)) for _ in range(count)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(20)
    # A hundred more images would be 25 MB if they were kept.
    assert peak(160) - peak(60) < 4e6


def test_show_draws_the_outline(pipeline, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", picture(255, 10, 10))
    (axes,) = pipeline.predict(path).show().axes
    assert "pneumothorax, 100 px" in axes.get_title()
    assert len(axes.images) == 1
    (outline,) = axes.collections
    xs, ys = outline.get_paths()[0].vertices.T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (6.5, 16.5, 4.5, 14.5)


@pytest.mark.parametrize(
    ("jit", "classified", "segmented"),
    [
        # Chunks of 16, 16 and 5 images, of which 3, 1 and 0 are positive.
        (False, [1] + [2] * 18, [1, 1, 2]),
        (True, [2] * 19, [2] * 3),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_a_compiled_network_sees_batches_of_one_shape(jit, classified, segmented, flip, monkeypatch):
    classifier, segmenter, seen = brightest(SIZE), identity(SIZE), []
    for network in (classifier, segmenter):
        network.model.jit_compile, network.full_batch = jit, 2 if jit else None
        noted = lambda x, n=network, compute=network._graph: seen.append((n, len(x))) or compute(x)  # noqa: E731
        monkeypatch.setattr(network, "_graph", noted)
    pipeline = Pipeline([classifier], [segmenter], RULE, flip=flip, batch_size=2)
    images = [picture(255 if number in (0, 5, 15, 20) else 30, 9, 9) for number in range(37)]
    results = list(pipeline.predict_many(images))
    assert [result.area_px for result in results] == [81 if (image == 255).any() else 0 for image in images]
    for network, sizes in ((classifier, classified), (segmenter, segmented)):
        assert sorted(size for n, size in seen if n is network) == sorted(sizes * (2 if flip else 1))
