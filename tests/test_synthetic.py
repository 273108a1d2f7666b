"""Synthetic images: the files on disk, and what can and cannot be learned from them."""

import contextlib
import csv
import hashlib
import io
import json
from collections import Counter, defaultdict

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from scipy import ndimage

from pneumoseg import read_image
from pneumoseg.image_errors import DamagedError
from pneumoseg.synthetic import SyntheticCase, annotation_files, generate_case, write_dataset
from pneumoseg.synthetic import dataset as writer
from pneumoseg.synthetic.anatomy import Anatomy
from pneumoseg.synthetic.annotation_files import AnnotatedImage, write_annotations
from pneumoseg.synthetic.case import render_case
from pneumoseg.synthetic.chest import sample_chest, sample_view
from pneumoseg.synthetic.dicom_file import Identity, write_dicom
from pneumoseg.synthetic.pneumothorax import paint_pneumothorax, sample_area, sample_pockets

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # ID_xxxxxxxxx, as in the competition

TRAIN, TEST, SIZE = 32, 9, 128


@pytest.fixture(autouse=True, scope="module")
def painted_once():
    """Paint each case once: the tests write the same ones in several formats."""
    painted = {}

    def render(chest, *arguments):
        if arguments not in painted:
            painted[arguments] = render_case(chest, *arguments)
        return painted[arguments]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "render_case", render)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, painted_once):
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    write_dataset(folder, TRAIN, TEST, SIZE, seed=3)
    return folder


@pytest.fixture(scope="module")
def cases():
    """30 positive and 30 negative images of 60 different patients."""
    return [generate_case(np.random.default_rng(seed), SIZE, positive=seed < 30) for seed in range(60)]


def read_rows(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    by_image = defaultdict(list)
    for image, code in rows:
        by_image[image].append(code.strip())
    return header, by_image


def decode(code, size):
    """Decode the competition's code slowly, one pixel at a time, gap after gap and run after run."""
    mask = np.zeros((size, size), bool)
    numbers, position = iter([] if code == "-1" else map(int, code.split())), 0
    for gap in numbers:
        position += gap
        for _ in range(next(numbers)):
            mask[position % size, position // size] = True
            position += 1
    return mask


def images_of(folder, part):
    return {path.stem: path for path in sorted((folder / f"dicom-images-{part}").rglob("*.dcm"))}


def code_of(tmp_path, mask, annotation_format):
    """Return the code that a CSV format gives to a mask."""
    image = AnnotatedImage.of("a", tmp_path / "a.png", mask.shape, [mask])
    write_annotations(annotation_format, tmp_path, "test", [image])
    (path,) = tmp_path.glob("*.csv")
    return path.read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("annotation_format", "mixed", "full"),
    # Down the columns of the mixed mask: 0 1 1 | 1 1 0 | 0 0 1.
    [("csv", "a,1 4 3 1", "a,0 9"), ("absolute-csv", "a,2 4 9 1", "a,1 9")],
)
def test_runs_are_column_major_and_reach_the_last_pixel(tmp_path, annotation_format, mixed, full):
    mask = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 1]], bool)
    assert code_of(tmp_path, mask, annotation_format) == mixed
    assert code_of(tmp_path, np.ones((3, 3), bool), annotation_format) == full


def test_folder_has_train_plus_two_and_test_images(folder):
    assert len(images_of(folder, "train")) == TRAIN + 2
    assert len(images_of(folder, "test")) == TEST
    assert all(path.parent == folder / "dicom-images-test" for path in images_of(folder, "test").values())


def test_training_images_are_in_study_and_series_folders(folder):
    for path in images_of(folder, "train").values():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        expected = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, f"{dataset.SOPInstanceUID}.dcm")
        assert path.relative_to(folder / "dicom-images-train").parts == expected
        assert pydicom.uid.UID(path.stem).is_valid


def test_annotations_are_written_as_in_stage_1_and_2(folder):
    first, second = (folder / "train-rle.csv").read_bytes().split(b"\n")[:2]
    assert first == b"ImageId, EncodedPixels"
    assert second.split(b",")[1].startswith(b" ")
    assert (folder / "test-rle.csv").read_bytes().startswith(b"ImageId,EncodedPixels\nID_")
    assert (folder / "nih_id.csv").read_bytes().startswith(b"Kaggle_ID,NIH_ID\n")


@pytest.mark.parametrize(("part", "count"), [("train", TRAIN), ("test", TEST)])
def test_22_percent_are_positive(folder, part, count):
    _, rows = read_rows(folder / f"{part}-rle.csv")
    assert sum(codes != ["-1"] for codes in rows.values()) == round(0.22 * count)


def test_one_image_has_no_row_and_one_is_damaged(folder):
    paths, (_, rows) = images_of(folder, "train"), read_rows(folder / "train-rle.csv")
    assert len(set(paths) - set(rows)) == 1
    assert set(rows) <= set(paths)
    damaged = [image for image, path in paths.items() if is_damaged(path)]
    assert len(damaged) == 1
    assert rows[damaged[0]] == ["-1"]
    assert not any(is_damaged(path) for path in images_of(folder, "test").values())


def is_damaged(path):
    dataset = pydicom.dcmread(path)
    if dataset.file_meta.TransferSyntaxUID != JPEGBaseline8Bit:
        return False
    try:
        Image.open(io.BytesIO(next(generate_frames(dataset.PixelData, number_of_frames=1)))).load()
    except OSError:
        return True
    return False


def test_some_masks_have_several_rows_and_some_overlap(folder):
    _, rows = read_rows(folder / "train-rle.csv")
    masks = [np.stack([decode(code, SIZE) for code in codes]) for codes in rows.values() if codes != ["-1"]]
    assert all(mask.any(axis=(1, 2)).all() for mask in masks)
    overlaps = [mask.sum(axis=0).max() > 1 for mask in masks if len(mask) > 1]
    assert any(overlaps)
    assert not all(overlaps)


def test_sample_submission_lists_every_test_image_as_empty(folder):
    header, rows = read_rows(folder / "stage_2_sample_submission.csv")
    assert header == ["ImageId", "EncodedPixels"]
    assert set(rows) == set(images_of(folder, "test"))
    assert all(codes == ["-1"] for codes in rows.values())


def test_patients_have_several_images_and_positives_come_from_few(folder):
    _, names = read_rows(folder / "nih_id.csv")
    _, rows = read_rows(folder / "train-rle.csv")
    assert set(names) == set(images_of(folder, "train"))
    assert len({name for (name,) in names.values()}) == TRAIN + 2
    patients = {image: name.removesuffix(".png").split("_")[0] for image, (name,) in names.items()}
    assert max(Counter(patients.values()).values()) > 1
    assert (
        len({patients[image] for image, codes in rows.items() if codes != ["-1"]}) <= 3
    )  # 7 positives, 3.3 per patient


def test_attributes_are_those_of_the_competition(folder):
    for path in [*images_of(folder, "train").values(), *images_of(folder, "test").values()]:
        dataset = pydicom.dcmread(path)
        assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
        assert (dataset.Modality, dataset.ViewPosition in ("PA", "AP"), dataset.PatientSex in "MF") == (
            "CR",
            True,
            True,
        )
        assert 18 <= int(dataset.PatientAge) < 100
        assert all(0.139 <= spacing <= 0.194 for spacing in dataset.PixelSpacing)
        assert (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel) == (SIZE, SIZE, 1)


def test_a_few_images_have_another_encoding(folder):
    for part in ("train", "test"):
        kinds = Counter()
        for path in images_of(folder, part).values():
            dataset = pydicom.dcmread(path)
            syntax = dataset.file_meta.TransferSyntaxUID
            kinds[syntax, dataset.PhotometricInterpretation, dataset.BitsStored, "WindowCenter" in dataset] += 1
        assert kinds[JPEGBaseline8Bit, "MONOCHROME1", 8, False] == 1
        assert kinds[ExplicitVRLittleEndian, "MONOCHROME2", 12, True] == 1
        assert len(kinds) == 3


def write_ramp(path, encoding):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    write_dicom(path, ramp, Identity("ID_0", "1.2.3", "1.2.4", "1.2.5", "p", "F", 40, "PA", 0.143), encoding)
    return ramp.astype(float), pydicom.dcmread(path)


def test_twelve_bit_file_shows_the_image_through_its_window(tmp_path):
    ramp, dataset = write_ramp(tmp_path / "a.dcm", "twelve_bit")
    stored = dataset.pixel_array.astype(float)
    assert stored.max() > 255
    # PS3.3 C.11.2.1.2.1, linear.
    shown = ((stored - (dataset.WindowCenter - 0.5)) / (dataset.WindowWidth - 1) + 0.5) * 255
    np.testing.assert_allclose(shown, ramp, atol=1e-9)


@pytest.mark.parametrize(("encoding", "inverted"), [("jpeg", False), ("monochrome1", True)])
def test_jpeg_file_holds_the_image(tmp_path, encoding, inverted):
    ramp, dataset = write_ramp(tmp_path / "a.dcm", encoding)
    frame = np.asarray(Image.open(io.BytesIO(next(generate_frames(dataset.PixelData, number_of_frames=1)))))
    # A smooth ramp survives quality 90 to within a few grey levels.
    np.testing.assert_allclose(frame, 255 - ramp if inverted else ramp, atol=4)


def fingerprint(folder):
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def test_same_seed_gives_the_same_bytes_for_any_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "render_case", render_case)
    write_dataset(tmp_path / "a", 5, 2, 64, seed=1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    write_dataset(tmp_path / "b", 5, 2, 64, seed=1)
    write_dataset(tmp_path / "c", 5, 2, 64, seed=2)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert not set(images_of(tmp_path / "a", "train")) & set(images_of(tmp_path / "c", "train"))


# Of the data set that the test writes, before there were other formats.
DEFAULT_BYTES = "f2d77defb7ceb0e5fdbfcdbc85450443471b1cf78101224b2810919c180f0fd5"


def draw_case(chest, seed, size, positive, style=None):
    """Draw a case without rounding, so that its bytes are the same on every CPU."""
    image = np.add.outer(np.arange(size), 2 * np.arange(size)).astype(np.uint8)
    mask = np.zeros((size, size), bool)
    mask[5:20, 7:9] = positive
    return SyntheticCase(image, mask, [mask, mask.T] if positive else [])


def test_default_bytes_have_not_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "render_case", draw_case)
    write_dataset(tmp_path, 10, 5, 64, seed=1)
    assert fingerprint(tmp_path) == DEFAULT_BYTES


def written_masks(folder, annotation_format, part):
    """Read annotation files with other code than the package's: masks by image id."""
    if annotation_format == "masks":
        return {path.stem: np.asarray(Image.open(path)) > 0 for path in (folder / f"masks-{part}").iterdir()}
    if annotation_format == "seg":
        return dict(read_segmentation(path) for path in (folder / f"seg-{part}").iterdir())
    if annotation_format == "coco":
        return read_coco(folder / f"{part}-coco.json")
    _, rows = read_rows(folder / f"{part}-absolute.csv")
    return {image: np.any([decode_absolute(code, SIZE) for code in codes], axis=0) for image, codes in rows.items()}


def decode_absolute(code, size):
    mask = np.zeros((size, size), bool)
    numbers = iter([] if code == "-1" else map(int, code.split()))
    for start in numbers:
        for position in range(start - 1, start - 1 + next(numbers)):
            mask[position % size, position // size] = True
    return mask


def read_segmentation(path):
    dataset = pydicom.dcmread(path)
    (instance,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID.is_valid
    return instance.ReferencedSOPInstanceUID, dataset.pixel_array.astype(bool)


def read_coco(path):
    coco = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        file = coco.COCO(str(path))
    masks = {}
    for number, image in file.imgs.items():
        mask = np.zeros((image["height"], image["width"]), bool)
        for annotation in file.imgToAnns[number]:
            mask |= file.annToMask(annotation).astype(bool)
        masks[image["file_name"].rpartition(".")[0]] = mask
    return masks


@pytest.mark.parametrize("annotation_format", ["absolute-csv", "masks", "coco", "seg"])
def test_every_format_holds_the_same_masks(tmp_path, folder, annotation_format):
    if annotation_format == "seg":
        pytest.importorskip("highdicom")
    data = tmp_path / "data"
    write_dataset(data, TRAIN, TEST, SIZE, seed=3, annotations=annotation_format)
    assert not list(data.glob("*-rle.csv"))
    for part in ("train", "test"):
        _, rows = read_rows(folder / f"{part}-rle.csv")
        expected = {image: np.any([decode(code, SIZE) for code in codes], axis=0) for image, codes in rows.items()}
        if annotation_format == "seg":  # which knows no negatives, and refers to valid UIDs alone
            uids = {i: pydicom.dcmread(path).SOPInstanceUID for i, path in images_of(data, part).items()}
            expected = {uids[image]: mask for image, mask in expected.items() if mask.any()}
        found = written_masks(data, annotation_format, part)
        assert found.keys() == expected.keys()
        for image, mask in found.items():
            np.testing.assert_array_equal(mask, expected[image])


def test_labels_are_those_of_the_masks(tmp_path, folder):
    write_dataset(tmp_path, TRAIN, TEST, SIZE, seed=3, annotations="labels")
    header, labels = read_rows(tmp_path / "train-labels.csv")
    _, rows = read_rows(folder / "train-rle.csv")
    assert header == ["image_id", "has_pneumothorax"]
    assert labels == {image: ["0" if codes == ["-1"] else "1"] for image, codes in rows.items()}


def test_coco_holds_both_kinds_of_runs(tmp_path):
    pytest.importorskip("pycocotools")
    masks = [np.eye(5, dtype=bool), np.ones((5, 5), bool), np.zeros((5, 5), bool)]
    images = [
        AnnotatedImage.of(str(n), tmp_path / f"{n}.png", (5, 5), [mask] if mask.any() else [])
        for n, mask in enumerate(masks)
    ]
    write_annotations("coco", tmp_path, "x", images)
    annotations = json.loads((tmp_path / "x-coco.json").read_text())["annotations"]
    assert [type(each["segmentation"]["counts"]) for each in annotations] == [list, str]
    assert annotations[0]["segmentation"]["counts"] == [0, 1, 5, 1, 5, 1, 5, 1, 5, 1]
    assert [each["area"] for each in annotations] == [5, 25]
    for image, mask in read_coco(tmp_path / "x-coco.json").items():
        np.testing.assert_array_equal(mask, masks[int(image)])


def test_pngs_show_what_the_dicoms_show(tmp_path, folder):
    write_dataset(tmp_path, TRAIN, TEST, SIZE, seed=3, images="png")
    for part in ("train", "test"):
        dicoms = images_of(folder, part)
        pngs = {path.stem: path for path in (tmp_path / f"images-{part}").iterdir()}
        assert pngs.keys() == dicoms.keys()
        for image, path in pngs.items():
            if is_damaged(dicoms[image]):
                with pytest.raises(DamagedError, match="cut short"):
                    read_image(path)
                continue
            with Image.open(path) as picture:
                assert picture.mode == "L"
                np.testing.assert_array_equal(np.asarray(picture), read_image(dicoms[image]))
            np.testing.assert_array_equal(read_image(path), read_image(dicoms[image]))
    for name in ("train-rle.csv", "test-rle.csv", "nih_id.csv", "stage_2_sample_submission.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("annotation_format", ["masks", "coco", "seg"])
def test_other_formats_give_the_same_bytes_too(tmp_path, monkeypatch, annotation_format):
    monkeypatch.setattr(writer, "render_case", draw_case)
    if annotation_format != "masks":
        pytest.importorskip({"coco": "pycocotools", "seg": "highdicom"}[annotation_format])
    for name in ("a", "b"):
        write_dataset(tmp_path / name, 10, 5, 64, seed=1, annotations=annotation_format)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_segmentation_of_an_image_without_a_uid_is_refused(tmp_path, folder):
    pytest.importorskip("highdicom")
    path = min(images_of(folder, "test").values())
    image = AnnotatedImage.of(path.stem, path, (SIZE, SIZE), [np.ones((SIZE, SIZE), bool)])
    with pytest.raises(ValueError, match=f"{path.stem}.*: a segmentation can refer to valid UIDs only"):
        write_annotations("seg", tmp_path, "test", [image])


def test_segmentations_need_dicom_images(tmp_path):
    with pytest.raises(ValueError, match="refers to DICOM images"):
        write_dataset(tmp_path / "data", images="png", annotations="seg")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("annotation_format", "extra"), [("coco", "coco"), ("seg", "dicom")])
def test_missing_library_is_named_before_anything_is_written(tmp_path, monkeypatch, annotation_format, extra):
    monkeypatch.setattr(annotation_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install 'pneumoseg\[{extra}\]'"):
        write_dataset(tmp_path / "data", annotations=annotation_format)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("arguments", [{"train": 0}, {"test": -1}, {"size": 31}, {"seed": -1}])
def test_write_dataset_refuses_impossible_arguments(tmp_path, arguments):
    with pytest.raises(ValueError, match="expected"):
        write_dataset(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_write_dataset_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "train-rle.csv").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_dataset(tmp_path)


def test_generate_case_refuses_a_size_without_a_chest():
    with pytest.raises(ValueError, match="size is 8, expected 32 or more"):
        generate_case(np.random.default_rng(0), 8)


def test_mask_is_the_union_of_its_components(cases):
    for case in cases[:30]:
        assert case.image.shape == case.mask.shape == (SIZE, SIZE)
        assert (case.image.dtype, case.mask.dtype) == (np.uint8, bool)
        assert case.mask.any()
        np.testing.assert_array_equal(case.mask, np.any(case.components, axis=0))
    assert max(len(case.components) for case in cases) == 2


def test_negative_has_an_empty_mask_and_no_components(cases):
    assert not any(case.mask.any() or case.components for case in cases[30:])


def test_mask_is_the_same_at_every_size():
    small, large = (generate_case(np.random.default_rng(4), size).mask for size in (256, 1024))
    # Equal except for the pixels that the outline crosses.
    assert np.abs(large.reshape(256, 4, 256, 4).mean(axis=(1, 3)) - small).max() < 1
    assert abs(large.mean() / small.mean() - 1) < 0.05


def test_pneumothorax_changes_nothing_away_from_it():
    with_air, without = (generate_case(np.random.default_rng(2), 512, positive) for positive in (True, False))
    changed = with_air.image != without.image
    assert changed[with_air.mask].mean() > 0.9
    # The pleural line and the blur extend a few pixels beyond the mask.
    assert not changed[~ndimage.binary_dilation(with_air.mask, iterations=12)].any()


def test_pneumothorax_is_visibly_darker_than_the_lung_it_replaces():
    darker = []
    for seed in range(10):
        air, lung = (generate_case(np.random.default_rng(seed), SIZE, positive) for positive in (True, False))
        darker.append(float(lung.image[air.mask].mean()) - air.image[air.mask].mean())
    assert min(darker) > 3
    assert 15 < np.median(darker) < 40


def test_pneumothorax_has_a_bright_border_and_no_vessels():
    rng = np.random.default_rng(0)
    chest, view = sample_chest(rng), sample_view(rng)
    polars = [lung.polar(*view.coordinates()) for lung in chest.lungs]
    pockets = sample_pockets(rng, polars, 0.03, "one")
    vessels = np.full_like(polars[0].depth, 0.1)
    lungs = Anatomy(solid=np.zeros_like(vessels), air=np.zeros_like(vessels), markings=vessels)
    air, markings = paint_pneumothorax(rng, lungs, pockets)
    inside = pockets[0].level_set > 0
    inner, outer = ndimage.binary_erosion(inside, iterations=8), ~ndimage.binary_dilation(inside, iterations=8)
    np.testing.assert_allclose(markings[inner], 0, atol=1e-3)
    np.testing.assert_allclose(markings[outer], 0.1)
    assert air[inner].min() > 0.02
    assert markings.max() > 0.1  # the pleural line


def lung_fields(seed):
    """Return the lungs of `generate_case(default_rng(seed))`: knowledge that no threshold has in practice."""
    seeds = np.random.default_rng(seed).integers(2**63, size=2)
    chest = sample_chest(np.random.default_rng(seeds[0]))
    view = sample_view(np.random.default_rng([int(seeds[1]), 0]))
    depth = np.maximum(*(lung.polar(*view.coordinates()).depth for lung in chest.lungs))
    return depth[2::4, 2::4] > 0


def test_no_pixel_threshold_finds_the_pneumothorax(cases):
    lungs = [lung_fields(seed) for seed in range(30)]
    assert all((case.mask & ~lung).sum() < 0.1 * case.mask.sum() + 8 for case, lung in zip(cases, lungs, strict=False))
    mean_dice = []
    for threshold in range(10, 200, 5):
        found = [(case.image < threshold) & lung for case, lung in zip(cases, lungs, strict=False)]
        both = zip(found, cases, strict=False)
        mean_dice.append(np.mean([2 * (f & c.mask).sum() / (f.sum() + c.mask.sum()) for f, c in both]))
    assert max(mean_dice) < 0.25


@pytest.mark.parametrize(
    "feature",
    [
        lambda image: image.mean(),
        lambda image: image.std(),
        lambda image: np.quantile(image[20:90, 15:-15], 0.1),
        lambda image: abs(float(image[:, :64].mean()) - image[:, 64:].mean()),
    ],
    ids=["mean", "spread", "darkest tenth", "asymmetry"],
)
def test_no_feature_of_the_whole_image_predicts_a_pneumothorax(cases, feature):
    values = np.array([feature(case.image) for case in cases])
    wins = values[:30, None] > values[None, 30:]
    # 0.5 is chance; its standard error with 30 and 30 images is 0.075.
    assert 0.35 < wins.mean() < 0.65


def test_mask_areas_are_distributed_as_in_the_competition():
    rng = np.random.default_rng(0)
    areas = np.array([sample_area(rng) for _ in range(20000)])
    # Standard errors at 20,000 samples: 0.009 of the mean, 0.009 of the median, 0.0035 of the fractions. The bounds are
    # wider, because a log-normal with two parameters cannot match four numbers, and its tail is cut at 8% of the image.
    assert areas.mean() == pytest.approx(0.0137, rel=0.07)
    assert np.median(areas) == pytest.approx(0.0082, rel=0.03)
    assert (areas < 0.01).mean() == pytest.approx(0.57, abs=0.02)
    assert (areas * 1024**2 < 3500).mean() == pytest.approx(0.205, abs=0.03)


@pytest.mark.parametrize("style", ["one", "separate", "overlapping"])
@pytest.mark.parametrize("area", [0.0005, 0.0082, 0.05])
def test_pockets_cover_the_requested_area(style, area):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        chest, view = sample_chest(rng), sample_view(rng)
        polars = [lung.polar(*view.coordinates()) for lung in chest.lungs]
        pockets = sample_pockets(rng, polars, area, style)
        covered = np.any([pocket.level_set > 0 for pocket in pockets], axis=0)
        largest = 0.3 * sum((polar.depth > 0).mean() for polar in polars)
        # Ties at the border, and the two tips where the pocket is thinner than its bound, cost a few pixels.
        assert covered.mean() == pytest.approx(min(area, largest), rel=0.03)
