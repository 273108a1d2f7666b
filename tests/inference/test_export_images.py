"""Images that an export is calibrated and compared on."""

import logging

import pandas as pd
import pytest

from pneumoseg.inference import export_images
from pneumoseg.inference.export_images import choose_evenly, choose_images


@pytest.fixture
def manifest(tmp_path):
    """Twelve images, of which the first four are positive."""
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path in paths:
        path.touch()
    positive = [number < 4 for number in range(12)]
    return pd.DataFrame({"path": list(map(str, paths)), "has_pneumothorax": positive, "rle": "-1"})


def numbers(paths):
    return [int(path.rpartition("/")[2].removesuffix(".png")) for path in paths]


def test_half_of_each_kind_is_left_for_the_comparison(manifest, caplog):
    caplog.set_level(logging.INFO)
    chosen = choose_images(64, calibrated=True, calibration=manifest, images=None)
    assert numbers(chosen.calibration) == [0, 2, 4, 6, 8, 10]
    assert numbers(chosen.compared.sources) == [1, 3, 5, 7, 9, 11]
    assert chosen.compared.origin == "6 other images of --calibrate"
    assert caplog.messages == ["calibrated on 6 images of --calibrate, 2 positive"]


def test_named_images_leave_all_others_for_calibration(manifest):
    chosen = choose_images(64, calibrated=True, calibration=manifest, images=manifest[:3])
    assert numbers(chosen.calibration) == list(range(12))
    assert (numbers(chosen.compared.sources), chosen.compared.origin) == ([0, 1, 2], "3 images of --images")


def test_images_that_do_not_exist_are_counted(manifest, caplog):
    manifest.loc[1, "path"] = "absent.png"
    chosen = choose_images(64, calibrated=True, calibration=manifest, images=None)
    assert numbers(chosen.calibration) == [0, 3, 4, 6, 8, 10]
    assert caplog.messages[0] == "1 of 12 images to calibrate on do not exist, the first: absent.png"
    with pytest.raises(ValueError, match="none of the 1 images of the manifest for calibration exists"):
        choose_images(64, calibrated=True, calibration=manifest[1:2], images=None)


def test_generated_images_are_used_with_a_warning(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(
        export_images,
        "generate_images",
        lambda size, seed=0: asked.append((size, seed)) or export_images.ComparedImages([], [], "60 generated images"),
    )
    choose_images(64, calibrated=True, calibration=None, images=None)
    assert asked == [(512, 1), (512, 0)]  # not calibrated on the images of the comparison
    assert caplog.messages[0].startswith("CALIBRATED ON 60 GENERATED IMAGES: name real images with --calibrate")
    assert choose_images(1024, calibrated=False, calibration=None, images=None).calibration == ()
    assert asked[2:] == [(1024, 0)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4, [0, 3, 4, 11]), (6, [0, 1, 3, 4, 7, 11]), (100, list(range(12)))],
)
def test_chosen_evenly(count, expected, manifest):
    assert choose_evenly(manifest, count).index.tolist() == expected
