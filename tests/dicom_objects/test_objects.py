import io
import logging
import math
import sys
import threading
import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path
from scipy.ndimage import binary_fill_holes, generate_binary_structure, label

import pneumoseg
from pneumoseg.annotations.dicom_seg import DicomSegmentations
from pneumoseg.dicom_objects import KINDS, make_objects, objects
from tests.dicom_objects.builders import (
    DIGEST,
    HEADERS,
    IMAGE,
    NOTHING,
    SERIES,
    SHAPE,
    STUDY,
    finding,
    radiograph,
    three_components,
)

IN_MM = {"spacing_source": "PixelSpacing", "pixel_spacing": (5.0, 6.0), "pixel_area_mm2": 30.0}

PNEUMOTHORAX = highdicom.sr.CodedConcept("36118008", "SCT", "Pneumothorax")
AREA = highdicom.sr.CodedConcept("42798000", "SCT", "Area")


@pytest.fixture
def image(tmp_path):
    return radiograph(tmp_path / "image.dcm", **HEADERS["type 2"])


def read_back(dataset):
    """Return an object as another program reads it."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return pydicom.dcmread(file)


def groups(dataset):
    return highdicom.sr.srread(_saved(dataset)).content.get_planar_roi_measurement_groups()


def whole_groups(dataset):
    return highdicom.sr.srread(_saved(dataset)).content.get_image_measurement_groups()


def _saved(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def uids(dataset):
    """Return all UIDs of an object that are its own: those of the source and of the standard are left out."""
    return [
        str(element.value)
        for element in dataset.iterall()
        if element.VR == "UI" and str(element.value).startswith("2.25.")
    ]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("facts", [{}, IN_MM], ids=["no spacing", "spacing"])
def test_the_segmentation_is_the_mask(image, facts, strict):
    made = make_objects(image, finding(**facts), ["seg"], strict=strict)["seg"]
    segmentation = highdicom.seg.segread(_saved(made))
    assert segmentation.SegmentationType == "BINARY"
    [frame] = segmentation.get_pixels_by_source_instance([IMAGE], segment_numbers=[1])[..., 0]
    assert (frame == three_components()).all()


def test_the_geometry_of_the_segmentation(image):
    def geometry(**arguments):
        dataset = read_back(make_objects(image, finding(**arguments), ["seg"])["seg"])
        shared, frame = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence[0]
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == [0, 0, 0]
        assert shared.PixelMeasuresSequence[0].SliceThickness == 1
        return shared.PixelMeasuresSequence[0].PixelSpacing

    assert geometry(**IN_MM) == [5, 6]
    assert geometry() == [1, 1]
    assert geometry(**IN_MM | {"spacing_source": "ImagerPixelSpacing"}) == [1, 1]
    # A spacing that is not believed is still the image's, over which viewers lay the segmentation.
    assert geometry(**IN_MM | {"pixel_area_mm2": math.nan}) == [5, 6]
    assert geometry(pixel_aspect=1.25) == [1.25, 1]
    assert geometry(spacing_source="ImagerPixelSpacing", pixel_spacing=(0.4, 0.2), pixel_aspect=2.0) == [2, 1]
    assert geometry(pixel_aspect=4 / 3)[0] == pytest.approx(4 / 3)
    strict = make_objects(image, finding(**IN_MM), ["seg"], strict=True)["seg"]
    names = {element.keyword for element in strict.iterall()}
    assert not names & {"PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence", "PixelSpacing"}


def test_the_annotations_reader_reads_the_segmentation(tmp_path, image):
    make_objects(image, finding(), ["seg"])["seg"].save_as(tmp_path / "seg.dcm")
    annotations = DicomSegmentations(tmp_path / "seg.dcm")
    [entry] = annotations.find([IMAGE]).entries.values()
    assert (annotations.read(entry, SHAPE) == three_components()).all()


def test_each_component_has_a_group(image):
    found = groups(make_objects(image, finding(), ["sr"])["sr"])
    labels, count = label(three_components(), generate_binary_structure(2, 2))
    assert len(found) == count == 3
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centres = np.column_stack([columns.ravel() + 0.5, rows.ravel() + 0.5])
    outlined = []
    for group in found:
        assert group.reference_type == pydicom.sr.codedict.codes.DCM.ImageRegion
        assert group.roi.graphic_type.value == "POLYLINE"
        assert (group.roi.value[0] == group.roi.value[-1]).all()
        assert group.roi.value.min() >= 0
        assert (group.roi.value <= SHAPE[::-1]).all()
        inside = Path(group.roi.value).contains_points(centres).reshape(SHAPE)
        [area] = group.get_measurements(name=AREA)
        assert (area.value, area.unit.value) == ((labels == labels[inside].max()).sum(), "{pixels}")
        outlined.append(inside)
    # The outer outlines give the mask back, with its hole filled.
    assert (np.any(outlined, axis=0) == binary_fill_holes(three_components())).all()
    assert np.sum(outlined) == binary_fill_holes(three_components()).sum()


@pytest.mark.parametrize(("facts", "expected"), [(IN_MM, [2100, 1080, 240]), ({}, [70, 36, 8])])
def test_areas(image, facts, expected):
    found = groups(make_objects(image, finding(**facts), ["sr"])["sr"])
    areas = [group.get_measurements(name=AREA)[0] for group in found]
    assert [area.value for area in areas] == expected
    assert {area.unit.value for area in areas} == {"mm2" if facts else "{pixels}"}


def test_areas_at_the_detector_say_so(image):
    def comments(**facts):
        dataset = make_objects(image, finding(**IN_MM | facts), ["sr"])["sr"]
        return {str(item.TextValue) for item in _items(dataset) if _name(item) == "Comment"}

    caution = "Research only, not for diagnosis. The certainty of the finding is the probability of pneumothorax"
    assert comments() == {caution}
    magnified = f"{caution}. The area is measured at the detector, where the patient appears magnified"
    assert comments(spacing_source="ImagerPixelSpacing") == {magnified}
    assert comments(spacing_source="ImagerPixelSpacing", pixel_area_mm2=math.nan) == {caution}
    assert comments(probability=math.nan) == {"Research only, not for diagnosis"}


@pytest.mark.parametrize(("facts", "area"), [({}, "20 pixels"), (IN_MM, "600.00 mm2")], ids=["pixels", "mm2"])
def test_a_report_has_at_most_50_groups(image, facts, area):
    # 60 components of 1 pixel, and 10 of 2: 80 pixels.
    mask = NOTHING.copy()
    mask[::2, :4:2] = True
    mask[:20:2, 10:12] = True
    dataset = make_objects(image, finding(mask, **facts), ["sr"])["sr"]
    areas = [group.get_measurements(name=AREA)[0].value for group in groups(dataset)]
    assert areas == [scaled * (30 if facts else 1) for scaled in [2] * 10 + [1] * 40]
    [comment] = {str(item.TextValue) for item in _items(dataset) if _name(item) == "Comment"}
    assert comment.endswith(f". 20 smaller components are left out, with an area of {area} together")


def test_50_groups_leave_nothing_out(image):
    mask = NOTHING.copy()
    mask[:50:2, :4:2] = True
    dataset = make_objects(image, finding(mask), ["sr"])["sr"]
    assert len(groups(dataset)) == 50
    assert not any("left out" in str(item.TextValue) for item in _items(dataset) if _name(item) == "Comment")


def _items(dataset):
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _name(item):
    return item.ConceptNameCodeSequence[0].CodeMeaning


@pytest.mark.parametrize(("mask", "verdict"), [(None, "Present"), (NOTHING, "Absent")], ids=["positive", "negative"])
@pytest.mark.parametrize(("probability", "certainty"), [(0.875, [87.5]), (math.nan, [])])
def test_verdict_and_certainty(image, mask, verdict, probability, certainty):
    dataset = make_objects(image, finding(mask, probability=probability), ["sr"])["sr"]
    found = groups(dataset) if mask is None else whole_groups(dataset)
    assert len(found) == (3 if mask is None else 1)
    for group in found:
        assert group.finding_type == PNEUMOTHORAX
        assert group.finding_category.value == "49755003"
        assert [site.value.value for site in group.finding_sites] == ["816094009"]
        [evaluation] = group.get_qualitative_evaluations(name=PNEUMOTHORAX)
        assert evaluation.value.meaning == verdict
        values = [item for item in group.get_measurements() if item.name.value == "111012"]
        assert [item.value for item in values] == certainty
        assert {item.unit.value for item in values} <= {"%"}


def test_a_negative_report_refers_to_the_image(image):
    dataset = make_objects(image, finding(NOTHING), ["sr"])["sr"]
    [group] = whole_groups(dataset)
    assert [source.referenced_sop_instance_uid for source in group.source_images] == [IMAGE]
    [evidence] = dataset.CurrentRequestedProcedureEvidenceSequence
    [series] = evidence.ReferencedSeriesSequence
    assert (evidence.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, SERIES)
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [IMAGE]


def test_flags_of_the_report(image):
    report = make_objects(image, finding(), ["sr"])["sr"]
    flags = report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


@pytest.mark.parametrize("mask", [None, NOTHING], ids=["positive", "negative"])
def test_objects_belong_to_the_study(image, mask):
    made = make_objects(image, finding(mask))
    assert list(made) == (list(KINDS) if mask is None else ["sr", "sc"])
    for dataset in map(read_back, made.values()):
        assert dataset.StudyInstanceUID == STUDY
        assert (dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate) == ("Doe^Jane", "P1", "19610305")
        assert (dataset.PatientSex, dataset.PatientAge, dataset.StudyDate) == ("F", "058Y", "20190904")
        assert dataset.AccessionNumber == "A1"
        assert dataset.SeriesDescription.startswith("Research only: ")
        assert (dataset.Manufacturer, dataset.ManufacturerModelName) == ("pneumoseg", "pneumoseg")
        assert (dataset.DeviceSerialNumber, dataset.SoftwareVersions) == (DIGEST, pneumoseg.__version__)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert pydicom.uid.UID(dataset.SOPInstanceUID).is_valid
    assert len({dataset.SeriesInstanceUID for dataset in made.values()} | {SERIES}) == len(made) + 1


def test_kinds_come_in_their_order(image):
    assert list(make_objects(image, finding(), ["sc", "seg"])) == ["seg", "sc"]
    assert make_objects(image, finding(), []) == {}
    assert make_objects(image, finding(NOTHING), ["seg"]) == {}


def test_uids_follow_from_image_pipeline_version_and_kind(tmp_path, image, monkeypatch):
    def made(path=image, digest=DIGEST, **arguments):
        objects = make_objects(path, finding(pipeline_digest=digest), **arguments)
        return {kind: uids(dataset) for kind, dataset in objects.items()}

    first = made()
    assert made() == first
    # The device of the report is the pipeline's and the same in all its reports; all other UIDs are unique.
    own = [uid for kind in first.values() for uid in set(kind)]
    # Object and series of each; dimension and segment of the segmentation; device and three groups of the report.
    assert len(own) == len(set(own)) == 3 * 2 + 2 + 4
    other_image = radiograph(tmp_path / "other.dcm", **HEADERS["type 2"] | {"SOPInstanceUID": "1.2.840.99.4"})
    device = set(first["sr"]) & set(made(other_image)["sr"])
    assert len(device) == 1
    strict = made(strict=True)
    assert (strict["sr"], strict["sc"]) == (first["sr"], first["sc"])
    assert not set(strict["seg"]) & set(first["seg"])
    for others in (made(other_image), made(digest="f" * 64)):
        assert not {uid for kind in others.values() for uid in kind} & (set(own) - device)
    monkeypatch.setattr(pneumoseg, "__version__", "9.9")
    assert not {uid for kind in made().values() for uid in kind} & set(own)


def test_nothing_is_drawn_at_random(image):
    """All that differs between two runs are dates and times."""
    first, second = (make_objects(image, finding()) for _ in range(2))
    for kind in KINDS:
        differing = {
            one.VR for one, two in zip(first[kind].iterall(), second[kind].iterall(), strict=True) if one != two
        }
        assert differing <= {"DA", "TM", "DT", "SQ"}


@pytest.mark.parametrize(
    ("arguments", "kinds", "message"),
    [
        ({}, ["seg", "gsps"], r"unknown kinds \['gsps'\], expected some of seg, sr, sc"),
        ({"pipeline_digest": ""}, KINDS, "has no digest: load it from a folder"),
        ({"mask": np.ones((3, 3), bool)}, KINDS, r"the mask is \(3, 3\), expected the image's \(60, 50\)"),
    ],
)
def test_wrong_arguments(image, arguments, kinds, message):
    with pytest.raises(ValueError, match=message):
        make_objects(image, finding(**arguments), kinds)


def test_without_highdicom(image, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ValueError, match=r"highdicom, which is not installed: pip install 'pneumoseg\[dicom\]'"):
        make_objects(image, finding())


@pytest.mark.parametrize("header", [*HEADERS, "single name"])
def test_nothing_is_logged_or_warned(tmp_path, header, caplog, capfd):
    # highdicom warns of a name with a single component, and logs UIDs at INFO.
    attributes = HEADERS.get(header, {"PatientName": "Doe", "ReferringPhysicianName": "Roe"})
    path = radiograph(tmp_path / "image.dcm", **attributes)
    caplog.set_level(logging.DEBUG)
    level = logging.getLogger("highdicom").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dataset in make_objects(path, finding()).values():
            dataset.save_as(io.BytesIO(), enforce_file_format=True)
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("highdicom").level == level


def test_threads_leave_the_logger_as_it_was(image):
    level = logging.getLogger("highdicom").level
    made = []
    threads = [threading.Thread(target=lambda: made.append(make_objects(image, finding()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logging.getLogger("highdicom").level == level
    assert [[uids(dataset) for dataset in objects.values()] for objects in made] == [
        [uids(dataset) for dataset in made[0].values()]
    ] * 4


def test_threads_make_objects_at_the_same_time(image, monkeypatch):
    together, levels, original = threading.Barrier(2, timeout=60), [], objects.make_report
    logger = logging.getLogger("highdicom")
    before = logger.level

    def meet(identity):
        together.wait()
        made = original(identity)
        levels.append(logger.level)
        return made

    monkeypatch.setattr(objects, "make_report", meet)
    threads = [threading.Thread(target=make_objects, args=(image, finding(), ["sr"])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The first that is ready leaves the logger silent for the other.
    assert levels == [logging.CRITICAL] * 2
    assert logger.level == before
