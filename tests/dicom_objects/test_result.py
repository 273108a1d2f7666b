import math

import numpy as np
import pytest

from pneumoseg import rle
from pneumoseg.dicom_objects import RefusedError
from pneumoseg.image_errors import DamagedError
from pneumoseg.inference.pipeline import Pipeline
from pneumoseg.inference.result import Result
from tests import networks
from tests.dicom_objects.builders import DIGEST, radiograph, three_components


def result(source, mask, **facts):
    return Result("a", 0.875, rle.encode(mask), mask.shape, "mask", source=source, pipeline_digest=DIGEST, **facts)


def areas(report):
    groups = report.content[0].ContentSequence[-1].ContentSequence
    items = [item for group in groups for item in group.ContentSequence]
    numbers = [item for item in items if item.ConceptNameCodeSequence[0].CodeMeaning == "Area"]
    values = [number.MeasuredValueSequence[0] for number in numbers]
    return [(float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) for value in values]


def test_a_result_gives_objects(tmp_path):
    path = radiograph(tmp_path / "a.dcm")
    made = result(path, three_components()).to_dicom()
    assert list(made) == ["seg", "sr", "sc"]
    assert areas(made["sr"]) == [(70, "{pixels}"), (36, "{pixels}"), (8, "{pixels}")]
    assert list(result(str(path), np.zeros((60, 50), bool)).to_dicom(strict=True)) == ["sr", "sc"]


def test_areas_follow_the_rule_of_the_result(tmp_path):
    path, mask = radiograph(tmp_path / "a.dcm"), three_components()
    # The longer side, of 60 rows, measures 300 mm, which is a chest, or 60 mm, which is not.
    believed = result(path, mask, pixel_spacing=(5.0, 4.0), spacing_source="PixelSpacing")
    assert areas(believed.to_dicom(["sr"])["sr"]) == [(1400, "mm2"), (720, "mm2"), (160, "mm2")]
    assert believed.area_mm2 == 2280
    other = result(path, mask, pixel_spacing=(1.0, 1.0), spacing_source="PixelSpacing")
    assert areas(other.to_dicom(["sr"])["sr"]) == [(70, "{pixels}"), (36, "{pixels}"), (8, "{pixels}")]
    assert math.isnan(other.area_mm2)


def test_the_shape_of_pixels_reaches_the_segmentation(tmp_path):
    def sides(**attributes):
        path = radiograph(tmp_path / "a.dcm", np.full((64, 64), 255, np.uint8), **attributes)
        pipeline = Pipeline([networks.brightest()], [networks.identity()], networks={"segmenter-0": "ab" * 32})
        segmentation = pipeline.predict(path).to_dicom(["seg"])["seg"]
        return segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing

    assert sides(PixelAspectRatio=["3", "2"]) == [1.5, 1]
    assert sides(ImagerPixelSpacing=[".4", ".2"]) == [2, 1]
    assert sides(PixelSpacing=[".5", ".25"]) == [0.5, 0.25]


def test_the_shape_of_pixels_reaches_the_picture(tmp_path):
    def ratio(**attributes):
        path = radiograph(tmp_path / "a.dcm", np.full((64, 64), 255, np.uint8), **attributes)
        pipeline = Pipeline([networks.brightest()], [networks.identity()], networks={"segmenter-0": "ab" * 32})
        return pipeline.predict(path).to_dicom(["sc"])["sc"].get("PixelAspectRatio")

    assert ratio(PixelAspectRatio=["3", "2"]) == [3, 2]
    assert ratio(ImagerPixelSpacing=[".4", ".2"]) == [2, 1]
    assert ratio(PixelSpacing=[".5", ".25"]) == [2, 1]  # of 32 mm, which are not believed
    assert ratio() is None


def test_results_without_a_study(tmp_path):
    with pytest.raises(ValueError, match="predict from its path, not an array"):
        result(np.zeros((60, 50), np.uint8), three_components()).to_dicom()
    with pytest.raises(RefusedError, match="is a lateral view"):
        result(radiograph(tmp_path / "a.dcm", ViewPosition="LL"), three_components()).to_dicom()
    error = DamagedError("a.dcm", "is cut short")
    with pytest.raises(DamagedError, match="is cut short"):
        Result("a", math.nan, rle.EMPTY, (0, 0), "error", error).to_dicom()


def test_networks_without_a_bundle(tmp_path):
    path = radiograph(tmp_path / "a.dcm", np.full((64, 64), 255, np.uint8))
    found = Pipeline([networks.brightest()], [networks.identity()]).predict(path)
    assert found.has_pneumothorax
    with pytest.raises(ValueError, match="the pipeline has no digest: load it from a folder with load_pipeline"):
        found.to_dicom()


def test_a_pipeline_with_a_digest(tmp_path):
    path = radiograph(tmp_path / "a.dcm", np.full((64, 64), 255, np.uint8))
    pipeline = Pipeline([networks.brightest()], [networks.identity()], networks={"segmenter-0": "ab" * 32})
    made = pipeline.predict(path).to_dicom()
    assert list(made) == ["seg", "sr", "sc"]
    assert {dataset.DeviceSerialNumber for dataset in made.values()} == {pipeline.digest}
    assert made["seg"].pixel_array.all()
