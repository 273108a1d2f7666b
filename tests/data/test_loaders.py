"""The loader against `read_image`, hand-made images and hand-made masks."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import tensorflow as tf
from scipy import ndimage

from pneumoseg import geometry, rle
from pneumoseg.data import loaders
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.loaders import classification_examples, files_named, segmentation_examples
from pneumoseg.data.sampling import UNCHANGED, EpochPlan, random_epoch
from pneumoseg.dicom import read_image
from pneumoseg.geometry import letterbox, letterbox_image, square_shape, unletterbox
from pneumoseg.image_errors import DamagedError, ImageError
from pneumoseg.scores import dice
from tests.conftest import manifest_of, write_dicom


def collected(dataset):
    images, targets = zip(*((x.numpy(), y.numpy()) for x, y in dataset), strict=True)
    return np.concatenate(images), np.concatenate(targets)


def test_images_are_exactly_those_of_read_image(manifest, tmp_path):
    images, labels = collected(classification_examples(manifest, 128, cache_dir=tmp_path).batches(16))
    assert images.dtype == np.uint8
    assert images.shape == (40, 128, 128, 1)
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels[:, 0], manifest["has_pneumothorax"])
    for image, path in zip(images, manifest["path"], strict=True):
        np.testing.assert_array_equal(image[..., 0], read_image(path))


def test_masks_are_exactly_those_of_the_manifest(manifest, tmp_path):
    _, masks = collected(segmentation_examples(manifest, 128, cache_dir=tmp_path).batches(16))
    assert masks.dtype == np.uint8
    for mask, code in zip(masks, manifest["rle"], strict=True):
        np.testing.assert_array_equal(mask[..., 0], rle.decode(code, (128, 128)))


def test_run_to_the_last_pixel_and_non_square_image(tmp_path):
    image = np.arange(32, dtype=np.uint8).reshape(4, 8)
    path = write_dicom(tmp_path / "a.dcm", image)
    manifest = manifest_of([path], [image], ["0 2 28 2"])  # the first two pixels and the last two
    images, masks = collected(segmentation_examples(manifest, 8, cache_dir=tmp_path / "cache").batches(1))
    expected = np.zeros((8, 8), np.uint8)
    expected[2:6] = image
    np.testing.assert_array_equal(images[0, ..., 0], expected)
    assert np.argwhere(masks[0, ..., 0]).tolist() == [[2, 0], [3, 0], [4, 7], [5, 7]]


def test_shrinking_averages_by_area():
    image = np.array([[0, 100, 7, 7], [50, 51, 7, 8], [1, 1, 0, 0], [1, 1, 0, 255]], np.uint8)
    shrunk = letterbox_image(tf.constant(image[..., None]), 2).numpy()[..., 0]
    np.testing.assert_array_equal(letterbox_image(image[..., None], 2).numpy()[..., 0], shrunk)  # a NumPy array
    assert shrunk.tolist() == [[50, 7], [1, 64]]  # 50.25, 7.25, 1 and 63.75


def area_weights(length, new_length):
    """Return the share of each old pixel in each new one, float64 (new_length, length)."""
    edges = np.linspace(0, length, new_length + 1)
    old = np.arange(length)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.maximum(overlap, 0) * new_length / length


def area_means(image, size):
    """Return an image that a square of `size` shrinks, by definition: the mean over the area of each new pixel."""
    height, width, top, left = letterbox(*image.shape, size)
    square = np.zeros((size, size))
    inside = area_weights(image.shape[0], height) @ image @ area_weights(image.shape[1], width).T
    square[top : top + height, left : left + width] = inside
    return square


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((24, 24), 24),
        *[((24 * factor, 24 * factor), 24) for factor in (2, 3, 4, 8, 9)],
        *[((24 * factor, 12 * factor), 24) for factor in (1, 2, 3)],
        ((16, 48), 24),
        ((16, 24), 24),
        ((50, 50), 24),
        ((97, 40), 24),
    ],
)
def test_shrinking_is_the_same_whether_the_graph_knows_the_shape_or_not(shape, size):
    spec = tf.TensorSpec((None, None, 1), tf.uint8)
    unknown = tf.function(lambda image: letterbox_image(image, size), input_signature=[spec])
    # Grey levels of 0 to 3 give many averages in the middle between two.
    for levels in (4, 256):
        image = np.random.default_rng(levels).integers(0, levels, (*shape, 1), np.uint8)
        shrunk = letterbox_image(tf.constant(image), size).numpy()
        np.testing.assert_array_equal(shrunk, unknown(image))
        expected = area_means(image[..., 0], size)
        if max(shape) % size == 0:
            np.testing.assert_array_equal(shrunk[..., 0], np.rint(expected))
        np.testing.assert_allclose(shrunk[..., 0], expected, atol=0.5 + 1e-4)


@pytest.mark.parametrize("shape", [(48, 48), (96, 96), (72, 36), (60, 80)])
def test_masks_are_resized_by_definition(shape, tmp_path):
    drawn = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2) > 0.02
    paths = [write_dicom(tmp_path / f"{name}.dcm", np.zeros(shape, np.uint8)) for name in "abc"]
    codes = ["-1", rle.encode(drawn), rle.encode(np.ones(shape, bool))]
    manifest = manifest_of(paths, [np.zeros(shape, np.uint8)] * 3, codes)
    _, masks = collected(segmentation_examples(manifest, 24, cache_dir=tmp_path / "cache").batches(2))
    assert masks.dtype == np.uint8
    for mask, content in zip(masks, (np.zeros(shape), drawn, np.ones(shape)), strict=True):
        covered = area_means(content, 24)
        # Unless both sides shrink by a whole factor, float32 is too coarse to tell a half.
        sure = (np.abs(covered - 0.5) > 1e-4) | (max(shape) % 24 == 0)
        np.testing.assert_array_equal((mask[..., 0] == 1)[sure], (covered >= 0.5)[sure])
        assert sure.mean() > 0.95


def not_called(*arguments):
    raise AssertionError


def test_without_xla_shrinking_gives_the_same(monkeypatch):
    monkeypatch.setattr(geometry, "_has_xla", lambda: False)
    monkeypatch.setattr(geometry, "_block_means", not_called)
    image = np.random.default_rng(0).integers(0, 4, (48, 24, 1), np.uint8)
    np.testing.assert_array_equal(
        letterbox_image(tf.constant(image), 24)[..., 0], np.rint(area_means(image[..., 0], 24))
    )


def test_nothing_is_compiled_for_masks_of_many_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "_block_means", not_called)
    images = [np.zeros(shape, np.uint8) for shape in ((48, 48), (48, 24))]
    paths = [write_dicom(tmp_path / f"{number}.dcm", image) for number, image in enumerate(images)]
    manifest = manifest_of(paths, images, [rle.encode(image == 0) for image in images])
    _, masks = collected(segmentation_examples(manifest, 24, cache_dir=tmp_path / "cache").batches(2))
    for mask, image in zip(masks, images, strict=True):
        np.testing.assert_array_equal(mask[..., 0], area_means(np.ones_like(image), 24))


def test_mask_pixel_stays_if_half_of_it_is_covered(tmp_path):
    image = np.zeros((4, 4), np.uint8)
    path = write_dicom(tmp_path / "a.dcm", image)
    # Column-major: both upper pixels of column 0, one pixel of column 2, three of the lower right quarter.
    manifest = manifest_of([path], [image], ["0 1 3 1 3 1 1 2 3 1"])
    drawn = rle.decode(manifest["rle"][0], (4, 4))
    covered = drawn.reshape(2, 2, 2, 2).sum((1, 3))
    _, masks = collected(segmentation_examples(manifest, 2, cache_dir=tmp_path).batches(1))
    np.testing.assert_array_equal(masks[0, ..., 0], covered >= 2)
    assert set(covered.ravel()) >= {1, 2, 3}


@pytest.mark.parametrize("shape", [(30, 20), (20, 33), (64, 64), (7, 100), (48, 47)])
@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5, 1.37, 0.73, 4.0])
def test_geometry_goes_there_and_back(shape, size, aspect):
    image = np.full((*shape, 1), 200, np.uint8)
    sides = tf.constant(square_shape(shape, aspect))
    square = letterbox_image(tf.constant(image), size, sides).numpy()[..., 0]
    height, width, top, left = letterbox(*shape, size, aspect)
    expected = np.zeros((size, size), np.uint8)
    expected[top : top + height, left : left + width] = 200
    np.testing.assert_array_equal(square, expected)
    np.testing.assert_allclose(unletterbox(square / 255, *shape, aspect), np.full(shape, 200 / 255), atol=1e-6)
    if aspect == 1:
        np.testing.assert_array_equal(letterbox_image(tf.constant(image), size).numpy()[..., 0], square)


def disc(rows, columns, aspect):
    """A disc in the middle, on a grid whose pixels are `aspect` times as high as wide, with a radius of a third."""
    y, x = np.mgrid[:rows, :columns] + 0.5
    side = min(rows * aspect, columns)
    return (aspect * (y - rows / 2)) ** 2 + (x - columns / 2) ** 2 < (side / 3) ** 2


@pytest.mark.parametrize(("shape", "aspect"), [((48, 96), 2.0), ((96, 48), 0.5), ((64, 96), 1.5)])
def test_a_disc_of_pixels_that_are_not_square_is_a_disc_for_the_network(shape, aspect):
    drawn = 255 * disc(*shape, aspect)[..., None].astype(np.uint8)
    assert square_shape(shape, aspect) == (96, 96)
    seen = letterbox_image(tf.constant(drawn), 96, tf.constant((96, 96))).numpy()[..., 0] > 127
    assert dice(seen, disc(96, 96, 1.0)) > 0.98
    for axis in (0, 1):
        assert abs(np.count_nonzero(seen.any(axis)) - 64) <= 2  # the diameter is two thirds of 96


def anisotropic(folder, shape, aspect, seed=0):
    """The manifest of an image whose mask is its bright part."""
    rng = np.random.default_rng(seed)
    image = (255 * (ndimage.gaussian_filter(rng.normal(size=shape), 3) > 0)).astype(np.uint8)
    path = write_dicom(folder / f"{shape}.dcm", image)
    return image, manifest_of([path], [image], [rle.encode(image > 0)]).assign(pixel_aspect=aspect)


def test_rows_twice_as_high_are_like_two_rows(tmp_path):
    image, manifest = anisotropic(tmp_path, (64, 128), 2.0)
    doubled = np.repeat(image, 2, axis=0)
    path = write_dicom(tmp_path / "doubled.dcm", doubled)
    expected = manifest_of([path], [doubled], [rle.encode(doubled > 0)])
    for size in (32, 64):
        one, other = (
            collected(segmentation_examples(rows, size, cache_dir=tmp_path / "cache").batches(1))
            for rows in (manifest, expected)
        )
        np.testing.assert_allclose(one[0].astype(int), other[0].astype(int), atol=1)
        np.testing.assert_array_equal(one[1], other[1])
        assert one[1].any()
        without = manifest.drop(columns="pixel_aspect")
        squeezed, _ = collected(segmentation_examples(without, size, cache_dir=tmp_path / "cache").batches(1))
        assert (squeezed[:, : size // 4] == 0).all()  # as if its pixels were square, the image is a flat one


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.6])
@pytest.mark.parametrize("size", [40, 100])
def test_mask_and_image_land_on_the_same_pixels(aspect, size, tmp_path):
    _, manifest = anisotropic(tmp_path, (60, 80), aspect)
    images, masks = collected(segmentation_examples(manifest, size, cache_dir=tmp_path / "cache").batches(1))
    np.testing.assert_array_equal(masks == 1, images >= 128)


@pytest.mark.parametrize("size", [32, 48])
def test_square_pixels_are_the_default(size, copied, tmp_path):
    given, default = (
        collected(segmentation_examples(rows, size, cache_dir=tmp_path / "cache").batches(4))
        for rows in (copied.assign(pixel_aspect=1.0), copied.drop(columns="pixel_aspect"))
    )
    for one, other in zip(given, default, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_image_without_a_mask_is_no_example_for_a_segmenter(manifest, tmp_path):
    labels = manifest.assign(rle=manifest["rle"].where(np.arange(len(manifest)) % 10 != 3, ""))
    message = (
        rf"4 of 40 images have a label and no mask, the first: {labels['image_id'][3]}: expected images with masks"
    )
    with pytest.raises(ValueError, match=message):
        segmentation_examples(labels, 32, cache_dir=tmp_path)
    one, other = (
        collected(classification_examples(rows, 32, cache_dir=tmp_path).batches(8)) for rows in (labels, manifest)
    )
    for each, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("make", [classification_examples, segmentation_examples])
@pytest.mark.parametrize("in_memory", [True, False])
def test_order_is_that_of_the_epoch(make, in_memory, manifest, tmp_path):
    examples = make(manifest, 32, cache_dir=tmp_path, decoded_images_gigabytes=1 if in_memory else 0)
    images, targets = collected(examples.batches(8))
    rows = np.array([3, 0, 3, 39, 7, 7, 7, 1, 2])
    epoch = EpochPlan(rows, np.full(9, UNCHANGED), np.zeros(9, np.int64))
    shown, shown_targets = collected(examples.batches(4, epoch))
    np.testing.assert_array_equal(shown, images[rows])
    np.testing.assert_array_equal(shown_targets, targets[rows])


@pytest.mark.parametrize(
    ("make", "size"), [(classification_examples, 40 * 32**2), (segmentation_examples, 2 * 40 * 32**2)]
)
def test_what_fits_is_decoded_once_and_the_log_tells(make, size, manifest, tmp_path, monkeypatch, caplog):
    def passes(gigabytes):
        """How often an image is decoded in two passes."""
        calls, load = [], loaders._load_image

        def counted(*arguments):
            tf.numpy_function(lambda: calls.append(None) or np.int64(0), [], tf.int64)
            return load(*arguments)

        monkeypatch.setattr(loaders, "_load_image", counted)
        examples = make(manifest, 32, cache_dir=tmp_path, decoded_images_gigabytes=gigabytes)
        for _ in range(2):
            collected(examples.batches(8))
        monkeypatch.undo()
        return len(calls) / len(manifest)

    with caplog.at_level("INFO", "pneumoseg"):
        assert passes(size / 1e9) == 1
        assert passes((size - 1) / 1e9) == 2
    kept, again = [record.getMessage() for record in caplog.records]
    assert kept.startswith(f"40 images, {size / 1e9:.3g} GB decoded: kept in memory (decoded_images_gigabytes: ")
    assert again.startswith(f"40 images, {size / 1e9:.3g} GB decoded: decoded again each epoch (decoded_images_gig")


def test_number_of_batches_is_known_before_they_are_read(manifest, tmp_path):
    examples = classification_examples(manifest, 32, cache_dir=tmp_path)
    assert len(examples.batches(16)) == 3
    assert len(examples.batches(16, random_epoch(manifest["has_pneumothorax"].to_numpy(), 0, seed=0))) == 3


@pytest.mark.parametrize("make", [classification_examples, segmentation_examples])
def test_each_example_is_changed_by_its_technique_and_seed(make, manifest, tmp_path):
    examples = make(manifest, 64, cache_dir=tmp_path)
    images, targets = collected(examples.batches(40))
    augmentations = [Augmentation(["zoom_out"], 1), Augmentation(["optical_distortion"], 1)]
    positive = np.flatnonzero(manifest["has_pneumothorax"])[0]
    epoch = EpochPlan(np.array([positive] * 3), np.array([1, UNCHANGED, 0]), np.array([5, 6, 7]))
    shown, shown_targets = collected(examples.batches(2, epoch, augmentations))
    image, target = images[positive], targets[positive]
    mask = target if target.ndim == 3 else None
    for number, changed in ((0, augmentations[1](image, mask, seed=5)), (2, augmentations[0](image, mask, seed=7))):
        np.testing.assert_array_equal(shown[number], changed["image"])
        assert not np.array_equal(shown[number], image)
        np.testing.assert_array_equal(shown_targets[number], changed.get("mask", target))
    np.testing.assert_array_equal(shown[1], image)
    np.testing.assert_array_equal(shown_targets[1], target)


def test_image_and_target_stay_together_when_shuffled(manifest, tmp_path):
    examples = segmentation_examples(manifest, 64, cache_dir=tmp_path)
    pairs = {image.tobytes(): mask.tobytes() for image, mask in zip(*collected(examples.batches(8)), strict=True)}
    shuffled = collected(examples.batches(8, random_epoch(manifest["has_pneumothorax"].to_numpy(), 0, seed=0)))
    assert all(pairs[image.tobytes()] == mask.tobytes() for image, mask in zip(*shuffled, strict=True))


def test_transcoding_happens_once_and_follows_the_file(tmp_path):
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    path = write_dicom(tmp_path / "a.dcm", image)
    manifest, cache = manifest_of([path], [image], ["-1"]), tmp_path / "cache"

    def load():
        return collected(classification_examples(manifest, 4, cache_dir=cache).batches(1))[0][0, ..., 0]

    np.testing.assert_array_equal(load(), image)
    (first,) = cache.iterdir()
    written = first.stat().st_mtime_ns
    np.testing.assert_array_equal(load(), image)
    assert [file.stat().st_mtime_ns for file in cache.iterdir()] == [written]
    write_dicom(path, image[::-1].copy(), PatientID="other length")
    np.testing.assert_array_equal(load(), image[::-1])


@pytest.fixture
def copied(manifest, tmp_path):
    """A JPEG and a transcoded file of the generated images, copied so that they may be changed, and their manifest."""
    jpeg = manifest[manifest["frame_length"] > 0].iloc[:2]
    other = manifest[manifest["frame_length"] == 0].iloc[:1]
    rows = pd.concat([jpeg, other]).reset_index(drop=True)
    for number, path in enumerate(rows["path"]):
        rows.loc[number, "path"] = str(shutil.copy2(path, tmp_path))
    return rows


def images_of(rows, tmp_path):
    return collected(classification_examples(rows, 128, cache_dir=tmp_path / "cache").batches(4))[0][..., 0]


def test_files_that_are_as_they_were_are_not_read_again(copied, tmp_path, caplog):
    images_of(copied, tmp_path)
    assert "reading them" not in caplog.text


@pytest.mark.parametrize("number", [0, 2])
def test_a_file_of_other_bytes_is_read_again(number, copied, tmp_path, caplog):
    other = copied["path"][1 - number // 2]
    Path(copied["path"][number]).write_bytes(Path(other).read_bytes())
    images = images_of(copied, tmp_path)
    np.testing.assert_array_equal(images[number], read_image(other))
    assert "1 of 3 files may have changed since they were indexed: reading them again" in caplog.text


def test_a_frame_that_moved_within_its_file_is_found_again(copied, tmp_path):
    """As when a tool has added an element to the header: the offset that was indexed leads into the frame."""
    path = Path(copied["path"][0])
    image = read_image(path)
    dataset = pydicom.dcmread(path)
    dataset.PatientComments = "x" * 1000
    dataset.save_as(path)
    np.testing.assert_array_equal(images_of(copied, tmp_path)[0], image)


def hole(path, row):
    content = bytearray(path.read_bytes())
    middle = row["frame_offset"] + row["frame_length"] // 2
    content[middle : middle + 64] = b"\0" * 64
    path.write_bytes(content)


def cut(path, row):
    path.write_bytes(path.read_bytes()[: row["frame_offset"] + row["frame_length"] // 2])


@pytest.mark.parametrize("damage", [hole, cut])
def test_a_file_damaged_since_is_an_error_that_names_it(damage, copied, tmp_path):
    path = Path(copied["path"][0])
    damage(path, copied.iloc[0])
    with pytest.raises(DamagedError) as caught:
        images_of(copied, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("number", [0, 2])
def test_a_file_of_another_size_in_pixels_does_not_fit_its_mask(number, copied, tmp_path):
    write_dicom(Path(copied["path"][number]), np.zeros((100, 128), np.uint8))
    with pytest.raises(DamagedError, match="is 100 x 128 pixels and was 128 x 128 when it was indexed"):
        images_of(copied, tmp_path)


@pytest.mark.parametrize("damage", [cut, lambda path, row: path.unlink()])
def test_an_error_inside_the_graph_names_the_file(damage, copied, tmp_path):
    examples = segmentation_examples(copied, 64, cache_dir=tmp_path / "cache", decoded_images_gigabytes=0)
    batches = examples.batches(2)
    damage(Path(copied["path"][0]), copied.iloc[0])
    with pytest.raises(tf.errors.OpError):
        list(batches)
    with pytest.raises(ImageError) as caught, files_named(copied):
        list(batches)
    assert copied["path"][0] in str(caught.value)


def test_cached_images_may_be_read_by_others(copied, tmp_path):
    images_of(copied, tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    (tmp_path / "ordinary").touch()
    assert cached.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_empty_manifest(manifest, tmp_path):
    with pytest.raises(ValueError, match="no row"):
        classification_examples(manifest[:0], 32, cache_dir=tmp_path)


def test_real_files(mini, tmp_path):
    from pneumoseg.data.index import index_dataset

    real = index_dataset(mini / "dicom-images-train", mini / "train-rle.csv").iloc[::20]
    images, masks = collected(segmentation_examples(real, 1024, cache_dir=tmp_path).batches(4))
    assert masks.any()
    for image, mask, row in zip(images, masks, real.itertuples(), strict=True):
        np.testing.assert_array_equal(image[..., 0], read_image(row.path))
        np.testing.assert_array_equal(mask[..., 0], rle.decode(row.rle))
