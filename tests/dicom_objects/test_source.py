import copy
import struct
import warnings

import jpeg_ls as jpeg_ls_codec
import numpy as np
import openjpeg
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pneumoseg.dicom_objects import RefusedError, make_objects, read_source
from pneumoseg.image_errors import DamagedError, ImageError, NotAnImageError, UnsupportedError
from tests.dicom import builders
from tests.dicom_objects.builders import HEADERS, IMAGE, SERIES, SHAPE, STUDY, finding, radiograph

NAMES = {
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
    "SOPClassUID": "SOP Class UID",
}
LATERAL = [
    *(
        "LL",
        "RL",
        "LLD",
        "RLD",
        "L",
        "R",
        "LATERAL",
        "lat",
        "L LAT",
        "LLAT",
        "RLAT",
        "LT_LATERAL",
        "XTABLE LAT",
        "X-LAT",
    ),
    *(
        "PA/LAT",
        "CROSSLATERAL",
        "LATEROMEDIAL",
        "LATERALVIEW",
        "LAT.",
        "SAG",
        "SAGITTAL",
        "PROFIL",
        "PROFILE",
        "SEITLICH",
    ),
]
OBLIQUE = ["LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE", "PA OBLIQUE"]
FRONTAL = [
    *("", "PA", "AP", "AP SUPINE", "ERECT", "PORTABLE", "FLAT", "AP FLAT", "PLATE", "DILATED", "SUPINE LATE", "P-A"),
    *("BILATERAL", "BI-LATERAL", "AP LORDOTIC", "LR", "FRONTAL", "AP INHALATION"),
]


def view_code(value):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", "a view"
    return [code]


def test_a_header_is_read(tmp_path):
    source = read_source(radiograph(tmp_path / "a.dcm", **HEADERS["type 2"]))
    assert (source.study_instance_uid, source.series_instance_uid) == (STUDY, SERIES)
    assert (source.sop_instance_uid, source.sop_class_uid) == (IMAGE, uid.SecondaryCaptureImageStorage)
    assert source.shape == SHAPE
    assert {element.keyword: str(element.value) for element in source.identity} == {
        "StudyDate": "20190904",
        "StudyTime": "101112",
        "StudyID": "7",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Roe^Richard",
        "StudyDescription": "Chest",
        "PatientName": "Doe^Jane",
        "PatientID": "P1",
        "PatientBirthDate": "19610305",
        "PatientSex": "F",
        "PatientAge": "058Y",
    }


def test_a_bare_header_gets_empty_elements(tmp_path):
    identity = read_source(radiograph(tmp_path / "a.dcm")).identity
    assert len(identity) == 9
    assert {str(element.value) for element in identity} == {""}


@pytest.mark.parametrize("keyword", ["PatientID", "AccessionNumber", "StudyID", "IssuerOfPatientID"])
@pytest.mark.parametrize("value", ["12\\34", "12\x0134", "1" * 80])
def test_parts_of_identifiers_are_not_taken_for_them(tmp_path, keyword, value):
    identity = read_source(radiograph(tmp_path / "a.dcm", **{keyword: value})).identity
    assert identity.get(keyword, "") == ""


@pytest.mark.parametrize(
    ("attributes", "method"),
    [
        ({"DeidentificationMethod": "by hand"}, "by hand"),
        ({"DeidentificationMethodCodeSequence": view_code("113100")}, "As in the source image"),
        ({}, "As in the source image"),
    ],
)
def test_the_mark_of_removed_identities_is_kept(tmp_path, attributes, method):
    path = radiograph(tmp_path / "a.dcm", PatientIdentityRemoved="YES", **attributes)
    for dataset in make_objects(path, finding()).values():
        assert (dataset.PatientIdentityRemoved, dataset.DeidentificationMethod) == ("YES", method)
    assert "PatientIdentityRemoved" not in read_source(radiograph(tmp_path / "b.dcm", **attributes)).identity


def test_long_texts_stay_utf_8(tmp_path):
    # The 1,024th byte is within a character.
    path = radiograph(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 192", StudyDescription="胸" * 400)
    assert read_source(path).identity.StudyDescription == "胸" * 64


def test_the_file_is_not_changed(tmp_path):
    path = radiograph(tmp_path / "a.dcm", **HEADERS["type 2"])
    before = path.read_bytes()
    path.chmod(0o400)
    make_objects(path, finding())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.dcm"]


@pytest.mark.parametrize("keyword", NAMES)
@pytest.mark.parametrize(
    "value",
    [
        *("ID_6d73626ed", "1.2.03", "1..2", "1.2.", "1." + "2" * 63),
        *("1", "3.2.840", "9.1", "10.2.3", "0.40.1", "1.40.2", "1.100", "1.03", "2."),
    ],
)
def test_malformed_uids_are_refused(tmp_path, keyword, value):
    path = radiograph(tmp_path / "a.dcm", **{keyword: value})
    with pytest.raises(RefusedError) as caught:
        read_source(path)
    assert caught.value.reason == f"has no valid {NAMES[keyword]}"


# "0.2.3" is legal, though dciodvfy calls it an error.
@pytest.mark.parametrize(
    "value", ["0.2.3", "0.39", "1.39.40", "2.999.1", "2.25." + "9" * 39, "1.2.0.3", "1." + "2." * 31]
)
def test_well_formed_uids_are_not_refused(tmp_path, value):
    value = value.rstrip(".")
    assert read_source(radiograph(tmp_path / "a.dcm", StudyInstanceUID=value)).study_instance_uid == value


@pytest.mark.parametrize("keyword", NAMES)
def test_absent_uids_are_refused(tmp_path, keyword):
    image = pydicom.dcmread(radiograph(tmp_path / "a.dcm"))
    delattr(image, keyword)
    image.save_as(tmp_path / "a.dcm", enforce_file_format=False)
    with pytest.raises(RefusedError) as caught:
        read_source(tmp_path / "a.dcm")
    assert caught.value.reason == f"has no valid {NAMES[keyword]}"


ACCEPTED = [
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.SecondaryCaptureImageStorage,
]
OTHER_CLASSES = [
    uid.XRayAngiographicImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
    uid.RTImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.CTImageStorage,
    uid.MRImageStorage,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalIntraOralXRayImageStorageForPresentation,
    uid.UltrasoundImageStorage,
    "1.2.392.200036.9125.1.1.2",
    "1.2.840.10008.5.1.4.1.1.6",
    uid.ComputedRadiographyImageStorage + "9",
]


@pytest.mark.parametrize("value", ACCEPTED)
def test_three_classes_are_accepted(tmp_path, value):
    made = make_objects(radiograph(tmp_path / "a.dcm", SOPClassUID=value), finding())
    assert list(made) == ["seg", "sr", "sc"]


@pytest.mark.parametrize("value", OTHER_CLASSES)
def test_other_classes_are_refused(tmp_path, value):
    with pytest.raises(RefusedError) as caught:
        read_source(radiograph(tmp_path / "a.dcm", SOPClassUID=value))
    expected = "is not a Computed Radiography, Digital X-Ray or single-frame Secondary Capture image"
    assert caught.value.reason == expected


def test_images_for_processing_have_a_remedy_of_their_own(tmp_path):
    path = radiograph(tmp_path / "a.dcm", SOPClassUID=uid.DigitalXRayImageStorageForProcessing)
    with pytest.raises(RefusedError) as caught:
        read_source(path)
    assert caught.value.reason == "is a Digital X-Ray image for processing, whose grey levels are raw"
    assert caught.value.remedy == "Send the image for presentation that was made from it"


@pytest.mark.parametrize("part", ["BREAST", "HAND", "KNEE", "FOOT", "SKULL", "PELVIS", "ABDOMEN", "hip ", "L-SPINE"])
def test_other_parts_of_the_body_are_refused(tmp_path, part):
    with pytest.raises(RefusedError) as caught:
        read_source(radiograph(tmp_path / "a.dcm", BodyPartExamined=part))
    assert caught.value.reason == "shows another part of the body than the chest"


@pytest.mark.parametrize(
    "part", ["", "CHEST", "THORAX", "RIB", "TSPINE", "CHESTABDOMEN", "WHOLEBODY", "PORT CHEST", "X"]
)
def test_chests_and_unknown_parts_are_not_refused(tmp_path, part):
    assert read_source(radiograph(tmp_path / "a.dcm", BodyPartExamined=part)).shape == SHAPE


@pytest.mark.parametrize(
    "attributes",
    [
        *({"ViewPosition": view} for view in LATERAL),
        {"ViewCodeSequence": view_code("399067008")},
        {"ViewCodeSequence": view_code("399173006")},
        {"ViewCodeSequence": view_code("R-10232"), "PatientOrientation": ["L", "F"]},
        {"ViewPosition": "PA", "ViewCodeSequence": view_code("399198007")},
        {"PatientOrientation": ["A", "F"]},
        {"PatientOrientation": ["F", "PR"]},
    ],
)
def test_lateral_views_are_refused(tmp_path, attributes):
    with pytest.raises(RefusedError) as caught:
        read_source(radiograph(tmp_path / "a.dcm", **attributes))
    assert caught.value.reason == "is a lateral view"


@pytest.mark.parametrize(
    "attributes",
    [
        *({"ViewPosition": view} for view in OBLIQUE),
        {"ViewCodeSequence": view_code("399135007")},
        {"ViewCodeSequence": view_code("R-10212"), "PatientOrientation": ["L", "F"]},
    ],
)
def test_oblique_views_are_refused(tmp_path, attributes):
    with pytest.raises(RefusedError) as caught:
        read_source(radiograph(tmp_path / "a.dcm", **attributes))
    assert caught.value.reason == "is an oblique view"


@pytest.mark.parametrize(
    "attributes",
    [
        *({"ViewPosition": view} for view in FRONTAL),
        {"ViewPosition": "AP", "PatientOrientation": ["A", "F"]},
        {"ViewCodeSequence": view_code("272479007")},
        {"ViewCodeSequence": []},
        {"PatientOrientation": ["L", "F"]},
        {"SeriesDescription": "LATERAL"},
    ],
)
def test_other_views_are_not_refused(tmp_path, attributes):
    assert read_source(radiograph(tmp_path / "a.dcm", **attributes)).shape == SHAPE


def test_own_pictures_are_refused(tmp_path):
    picture = make_objects(radiograph(tmp_path / "a.dcm"), finding(), ["sc"])["sc"]
    marks = ["Manufacturer", "ManufacturerModelName", "SeriesDescription", "DerivationDescription"]
    # An archive may rewrite all but one of them.
    for kept in marks:
        rewritten = copy.deepcopy(picture)
        for mark in set(marks) - {kept}:
            setattr(rewritten, mark, "Archive")
        rewritten.SOPInstanceUID = IMAGE
        rewritten.save_as(tmp_path / "b.dcm", enforce_file_format=True)
        with pytest.raises(RefusedError, match="was made by pneumoseg itself"):
            read_source(tmp_path / "b.dcm")


def test_pictures_and_other_files_are_not_images(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(NotAnImageError, match="is a PNG file, not DICOM"):
        read_source(tmp_path / "a.png")
    (tmp_path / "b").write_text("image_id,label\n" * 50)
    with pytest.raises(NotAnImageError):
        read_source(tmp_path / "b")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_source(tmp_path / "c")


def test_several_frames_are_not_supported(tmp_path):
    with pytest.raises(UnsupportedError):
        read_source(radiograph(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), NumberOfFrames="2", Rows=2))


def test_files_without_preamble_and_meta_information(tmp_path):
    path = radiograph(tmp_path / "a.dcm", **HEADERS["type 2"])
    content = path.read_bytes()
    (length,) = struct.unpack_from("<L", content, 140)
    path.write_bytes(content[144 + length :])
    assert read_source(path).identity.PatientName == "Doe^Jane"
    assert list(make_objects(path, finding())) == ["seg", "sr", "sc"]


@pytest.mark.parametrize("syntax", builders.NATIVE)
def test_other_encodings(tmp_path, syntax):
    path = radiograph(tmp_path / "a.dcm", **HEADERS["type 2"])
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = builders.NATIVE[syntax]
    little = syntax != "big endian"
    pydicom.dcmwrite(path, image, little_endian=little, implicit_vr=syntax == "implicit", enforce_file_format=True)
    assert read_source(path).identity.PatientName == "Doe^Jane"


def jpeg_ls(pixels, near):
    return bytes(jpeg_ls_codec.encode_array(pixels, lossy_error=near))


def jpeg_2000(pixels, ratios=None):
    return bytes(openjpeg.encode(pixels, photometric_interpretation=2, compression_ratios=ratios))


FRAMES = {
    "JPEG-LS, near-lossless": (uid.JPEGLSNearLossless, lambda pixels: jpeg_ls(pixels, 3), {}, "01"),
    "JPEG-LS, lossless": (uid.JPEGLSNearLossless, lambda pixels: jpeg_ls(pixels, 0), {}, "00"),
    "JPEG-LS, wrong syntax": (uid.JPEGLSLossless, lambda pixels: jpeg_ls(pixels, 3), {}, "01"),
    "JPEG 2000, irreversible": (uid.JPEG2000, lambda pixels: jpeg_2000(pixels, [5]), {}, "01"),
    "JPEG 2000, irreversible, denied": (
        uid.JPEG2000, lambda pixels: jpeg_2000(pixels, [5]), {"LossyImageCompression": "00"}, "01",
    ),
    "JPEG 2000, perhaps truncated": (uid.JPEG2000, jpeg_2000, {}, "01"),
    "JPEG 2000, declared lossless": (uid.JPEG2000, jpeg_2000, {"LossyImageCompression": "00"}, "00"),
    "JPEG 2000, lossless": (uid.JPEG2000Lossless, jpeg_2000, {}, "00"),
    "JPEG": (uid.JPEGBaseline8Bit, builders.jpeg, {}, "01"),
    "JPEG, wrong syntax": (uid.JPEGLosslessSV1, builders.jpeg, {}, "01"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_loss_is_read_from_the_frame(tmp_path, name):
    syntax, encode, attributes, lossy = FRAMES[name]
    path = radiograph(tmp_path / "a.dcm", **attributes)
    image = pydicom.dcmread(path)
    image.PixelData = encapsulate([encode(image.pixel_array)])
    image["PixelData"].is_undefined_length = True
    builders.save(image, path, syntax)
    made = make_objects(path, finding())
    assert made["seg"].LossyImageCompression == lossy
    assert made["sc"].get("LossyImageCompression", "00") == lossy


def test_loss_is_read_from_the_header(tmp_path):
    made = make_objects(radiograph(tmp_path / "a.dcm", LossyImageCompression="01"), finding())
    assert (made["seg"].LossyImageCompression, made["sc"].LossyImageCompression) == ("01", "01")
    assert make_objects(radiograph(tmp_path / "b.dcm"), finding())["seg"].LossyImageCompression == "00"


def test_truncated_files_raise_nothing_but_image_errors(tmp_path):
    path = radiograph(
        tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), ViewCodeSequence=view_code("1"), **HEADERS["type 2"]
    )
    content = path.read_bytes()
    mask = np.zeros((8, 8), bool)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError):
            make_objects(path, finding(mask), ["sc"])


def test_damaged_files_raise_nothing_but_image_errors(tmp_path):
    path = radiograph(
        tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), ViewCodeSequence=view_code("1"), **HEADERS["type 2"]
    )
    content = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(5)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3] = True
    made = 0
    for _ in range(150):
        damaged = content.copy()
        damaged[generator.integers(132, len(content), 4)] = generator.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                shape = read_source(path).shape
                made += shape == (8, 8) and len(make_objects(path, finding(mask)))
            except ImageError:
                continue
    # Three objects of an image.
    assert made > 30


def test_deep_sequences_end_in_no_recursion(tmp_path):
    # 100,000 sequences of undefined length in one another, in the private group 0009.
    deep = struct.pack("<HH2sHLHHL", 0x0009, 0x1000, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 100_000
    content = radiograph(tmp_path / "a.dcm").read_bytes()
    place = content.index(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    (tmp_path / "b.dcm").write_bytes(content[:place] + deep + content[place:])
    with pytest.raises(DamagedError):
        read_source(tmp_path / "b.dcm")
    closed = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * 100_000
    (tmp_path / "b.dcm").write_bytes(content[:place] + deep + closed + content[place:])
    assert read_source(tmp_path / "b.dcm").sop_instance_uid == IMAGE


def test_test_images_of_the_competition_are_refused(mini):
    files = sorted((mini / "dicom-images-test").rglob("*.dcm"))
    assert len(files) == 105
    for path in files:
        with pytest.raises(RefusedError) as caught:
            read_source(path)
        assert caught.value.reason == "has no valid Study Instance UID"
