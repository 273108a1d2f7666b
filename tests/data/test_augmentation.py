"""Effects of each transform on images of known content."""

import random
from concurrent.futures import ThreadPoolExecutor

import albumentations
import numpy as np
import pytest

from pneumoseg.data.augmentation import TRANSFORMS, Augmentation

PAPER = ("clahe", "optical_distortion", "zoom_in", "zoom_out")


@pytest.fixture(scope="module")
def image():
    """Return a smooth image of 256 x 256 pixels without symmetry."""
    y, x = np.mgrid[:256, :256] / 255
    return (90 + 60 * np.sin(5 * x) + 50 * np.cos(9 * y) + 40 * x * y).astype(np.uint8)


def disc(radius, size=256):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_shape_and_type_stay_and_the_image_changes(transform, shape, image):
    mask = disc(50)
    changed = Augmentation([transform], 1)(image.reshape(256, 256, *shape), mask.reshape(256, 256, *shape), seed=4)
    assert changed["image"].shape == changed["mask"].shape == (256, 256, *shape)
    assert (changed["image"].dtype, changed["mask"].dtype) == (np.uint8, bool)
    assert not np.array_equal(changed["image"].ravel(), image.ravel())
    assert np.array_equal(changed["mask"].ravel(), mask.ravel()) == (transform == "clahe")


@pytest.mark.parametrize(("transform", "low", "high"), [("zoom_in", 1.05, 1.10), ("zoom_out", 0.90, 0.95)])
def test_zoom_is_uniform_between_5_and_10_percent_and_the_same_both_ways(transform, low, high):
    augment = Augmentation([transform], 1)
    mask, factors = disc(300, size=1024), []
    for seed in range(60):
        changed = augment(mask.astype(np.uint8), mask, seed=seed)["mask"]
        height, width = np.ptp(np.flatnonzero(changed.any(1))) + 1, np.ptp(np.flatnonzero(changed.any(0))) + 1
        assert abs(height - width) <= 1
        factors.append(height / 601)
    # In all but one of ten thousand cases, 60 draws from a uniform distribution come this close to both ends.
    assert low - 0.002 <= min(factors) <= low + 0.008
    assert high - 0.008 <= max(factors) <= high + 0.002
    assert np.mean(factors) == pytest.approx((low + high) / 2, abs=0.006)


def test_zoom_keeps_the_centre_and_pads_with_black(image):
    changed = Augmentation(["zoom_out"], 1)(image, disc(60), seed=1)
    rows, columns = np.nonzero(changed["mask"])
    assert abs(rows.mean() - 127.5) < 1
    assert abs(columns.mean() - 127.5) < 1
    assert not changed["image"][[0, -1]].any()
    assert not changed["image"][:, [0, -1]].any()


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "clahe"])
def test_mask_moves_with_the_image(transform):
    mask = np.zeros((256, 256), bool)
    mask[60:120, 30:90] = True
    changed = Augmentation([transform], 1)(200 * mask.astype(np.uint8), mask, seed=2)
    # The image is interpolated and the mask is not, so they may differ, but only along the border.
    differing = (changed["image"] > 100) != changed["mask"]
    assert differing.sum() <= 0.06 * mask.sum()
    assert not np.array_equal(changed["mask"], mask)


def test_optical_distortion_is_that_of_albumentations():
    image = (255 * disc(40)).astype(np.uint8) // 2 + (np.indices((256, 256)).sum(0) % 100).astype(np.uint8)
    mask = disc(70)
    ours = Augmentation(["optical_distortion"], 1)
    for seed in range(20):
        theirs = albumentations.Compose([albumentations.OpticalDistortion(distort_limit=0.3, p=1)])
        theirs.set_random_state(np.random.default_rng(seed), random.Random(seed))
        expected = theirs(image=image, mask=mask.astype(np.uint8))
        changed = ours(image, mask, seed=seed)
        # The sources of the pixels differ by less than 1/1000 of a pixel, so few are rounded differently.
        differing = changed["image"] != expected["image"]
        assert differing.mean() < 0.01
        assert (changed["mask"] != expected["mask"]).mean() < 0.001


@pytest.mark.parametrize("transform", ["zoom_in", "zoom_out"])
@pytest.mark.parametrize("shape", [(256, 256), (256, 256, 1), (200, 151)])
def test_zoom_is_an_affine_change_up_to_a_pixel(transform, shape):
    rows, columns = np.indices(shape[:2])
    image = ((rows + columns) // 2).astype(np.uint8).reshape(shape)
    limits = (1.05, 1.10) if transform == "zoom_in" else (0.90, 0.95)
    for seed in range(10):
        theirs = albumentations.Compose([albumentations.Affine(scale=limits, keep_ratio=True, p=1)])
        theirs.set_random_state(np.random.default_rng(seed), random.Random(seed))
        expected = theirs(image=image)["image"]
        changed = Augmentation([transform], 1)(image, seed=seed)["image"]
        middle = tuple(slice(side // 8, -side // 8) for side in shape[:2])  # without the black border
        # A shift by one pixel changes the image by half a grey level.
        assert np.abs(changed.astype(int) - expected)[middle].max() <= 1
        assert np.abs(image.astype(int) - expected)[middle].max() > 1


def test_each_transform_has_probability_one_half(image):
    augment = Augmentation(PAPER, 0.5)
    unchanged = sum(np.array_equal(augment(image, seed=seed)["image"], image) for seed in range(800))
    assert unchanged == pytest.approx(800 / 2**4, abs=4 * np.sqrt(800 * 15 / 16**2))
    for transform in PAPER:
        alone = Augmentation([transform], 0.5)
        changed = sum(not np.array_equal(alone(image, seed=seed)["image"], image) for seed in range(400))
        assert changed == pytest.approx(200, abs=4 * 10)  # four standard deviations


def test_seed_decides_in_every_thread(image):
    augment = Augmentation(TRANSFORMS, 0.5)
    expected = [augment(image, seed=seed)["image"] for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda seed: augment(image, seed=seed)["image"], reversed(range(24))))
    for one, other in zip(expected, reversed(drawn), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({changed.tobytes() for changed in expected}) > 20


def test_local_shifts_grow_with_the_image():
    # At both sizes a vertical edge is moved by about the same fraction of the width.
    shifts = []
    for size in (256, 1024):
        image = np.zeros((size, size), np.uint8)
        image[:, size // 2 :] = 255
        augment = Augmentation(["elastic_transform"], 1)
        moved = [np.abs((augment(image, seed=seed)["image"] < 128).sum(1) / size - 0.5).mean() for seed in range(5)]
        shifts.append(np.mean(moved))
    assert 0.5 < shifts[0] / shifts[1] < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "expected some of clahe"),
        ((["clahe", "blur"],), "'blur'.*expected some of clahe"),
        ((["clahe"], 0), "probability=0: expected above 0"),
        ((["clahe"], 1.5), "probability=1.5"),
        ((["zoom_in"], 0.5, (0.1, 0.05)), "smallest and the largest"),
        ((["zoom_in"], 0.5, (0.1,)), "smallest and the largest"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(*arguments)
