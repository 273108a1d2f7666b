"""Tests of pipelines that run on an export: chosen, checked, computed, and named in what they write."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from pneumoseg.decision import DecisionRule
from pneumoseg.engines import Engine, ExportError, exports, openvino_network
from pneumoseg.engines.export_record import read_record
from pneumoseg.inference import Tuning, assemble_pipeline, load_pipeline, save_tuning
from tests.engines.exports import SIZE, write_export


@pytest.fixture
def folder(pipeline, tmp_path):
    """Return a pipeline's folder to change, without an export."""
    return shutil.copytree(pipeline, tmp_path / "p")


def own_messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("pneumoseg.engines")]


def picture(value):
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[3, 4:6] = value
    return image


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_pipeline_runs_on_its_export(folder, engine, precision, caplog):
    export = write_export(folder, engine, precision)
    with caplog.at_level("INFO", "pneumoseg"):
        loaded = load_pipeline(folder, 3, engine=engine)
    assert loaded.engine == Engine(engine, precision, read_record(export).sha256)
    assert [network.name for network in loaded.classifiers] == ["classifier_1_by_hand"]
    assert [network.name for network in loaded.segmenters] == ["segmenter_1_by_hand"]
    results = list(loaded.predict_many([picture(51), picture(255), picture(0), picture(102)]))
    assert [result.probability for result in results] == pytest.approx([0.2, 1, 0, 0.4])
    assert [result.area_px for result in results] == [2, 2, 0, 2]
    (line,) = own_messages(caplog)
    title = {"openvino": "OpenVINO 20", "onnx": "ONNX Runtime 1."}[engine]
    assert line.startswith("Device: ")
    assert f"cores, {title}" in line
    assert line.endswith(f", {precision}")


def test_an_image_does_not_depend_on_those_of_its_batch(folder):
    write_export(folder)
    images = [np.random.default_rng(seed).integers(256, size=(SIZE, SIZE)).astype(np.uint8) for seed in range(7)]
    alone = [load_pipeline(folder, 1, engine="openvino").predict(image).probability for image in images]
    for batch_size in (2, 7):
        loaded = load_pipeline(folder, batch_size, engine="openvino")
        assert [result.probability for result in loaded.predict_many(images)] == alone


def test_one_export_of_several_is_chosen_by_its_name(folder):
    for precision in ("float32", "int8"):
        write_export(folder, "openvino", precision)
    write_export(folder, "onnx")
    assert load_pipeline(folder, engine="openvino-int8").engine.precision == "int8"
    assert str(load_pipeline(folder, engine="onnx").engine) == "ONNX Runtime, float32"
    with pytest.raises(
        ExportError, match=r"several exports for openvino: name one of openvino-float32, openvino-int8$"
    ):
        load_pipeline(folder, engine="openvino")


@pytest.mark.parametrize(
    "engine", ["torch", "", "openvino-", "onnx-bfloat16", "openvino-int4", "OpenVINO", "keras-float32", "../openvino"]
)
def test_an_unknown_engine_is_refused(folder, engine):
    with pytest.raises(ValueError, match=rf"engine is '{engine}', expected keras, openvino, onnx, or"):
        load_pipeline(folder, engine=engine)


def test_a_missing_export_is_refused_with_the_command_that_makes_it(folder):
    with pytest.raises(
        ExportError, match=r"no export openvino: .*`pneumoseg export --engine openvino --precision float32`"
    ):
        load_pipeline(folder, engine="openvino")
    write_export(folder, "onnx")
    with pytest.raises(ExportError, match=r"no export openvino-int8, only onnx-float32: .*--precision int8`"):
        load_pipeline(folder, engine="openvino-int8")


def test_xla_belongs_to_keras(folder):
    with pytest.raises(ValueError, match="jit_compile is for the engine Keras, and the engine is openvino"):
        load_pipeline(folder, engine="openvino", jit_compile=True)


@pytest.mark.parametrize("name", ["classifier_1.xml", "classifier_1.bin", "segmenter_1.xml", "segmenter_1.bin"])
@pytest.mark.parametrize("damage", ["a byte", "missing"])
def test_tampering_with_any_file_is_refused(folder, name, damage):
    path = write_export(folder) / name
    content = path.read_bytes()
    path.unlink()
    if damage == "a byte":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ExportError, match=rf"{name}.*`pneumoseg export --engine openvino --precision float32`"):
        load_pipeline(folder, engine="openvino")


def test_an_added_file_and_an_edited_record_are_refused(folder):
    export = write_export(folder)
    (export / "segmenter_2.xml").write_text("<net/>")
    with pytest.raises(ExportError, match=r"segmenter_2\.xml is not part of the export"):
        load_pipeline(folder, engine="openvino")
    (export / "segmenter_2.xml").unlink()
    record = export / "export.json"
    record.write_text(record.read_text().replace('"parameters": 1', '"parameters": 2', 1))
    with pytest.raises(ExportError, match=r"export\.json was changed"):
        load_pipeline(folder, engine="openvino")


def test_an_export_under_another_name_is_refused(folder):
    export = write_export(folder)
    export.rename(export.with_name("openvino-int8"))
    with pytest.raises(ExportError, match="openvino-int8 holds the export openvino-float32"):
        load_pipeline(folder, engine="openvino")


def test_an_export_of_earlier_networks_is_refused(folder):
    export = write_export(folder)
    kept = export.rename(folder.parent / "kept")
    swapped = folder.parent / "swapped"
    assemble_pipeline([folder / "classifier_1"] * 2, folder / "segmenter_1", swapped, classifier_threshold=0)
    (swapped / "engines").mkdir()
    kept.rename(swapped / "engines" / "openvino-float32")
    with pytest.raises(
        ExportError, match="is of other networks than those that the pipeline has now: export the pipel"
    ):
        load_pipeline(swapped, engine="openvino")


def test_assembling_again_removes_the_exports_and_says_so(folder, caplog):
    write_export(folder)
    assemble_pipeline(folder / "classifier_1", folder / "segmenter_1", folder, classifier_threshold=0)
    assert not (folder / "engines").exists()
    assert "its exports were of the networks before: openvino-float32; export it again" in caplog.text
    load_pipeline(folder)


def test_a_rule_that_is_tuned_later_keeps_the_export(folder):
    write_export(folder)
    scores = dict.fromkeys(("images", "positives", "mean_dice", "mean_dice_before", "baseline"), 1.0)
    save_tuning(folder, Tuning(DecisionRule(0.3), ("i",), (), scores))
    assert load_pipeline(folder, engine="openvino").rule.classifier_threshold == 0.3


def test_a_cpu_without_bfloat16_computes_in_float32_and_warns_once(folder, monkeypatch, caplog):
    monkeypatch.setattr(openvino_network, "cpu_capabilities", lambda: ["FP32"])
    write_export(folder, "openvino", "bfloat16")
    loaded = load_pipeline(folder, engine="openvino")
    assert str(loaded.engine) == "OpenVINO, float32"
    (warning,) = own_messages(caplog)
    assert warning.endswith(
        "openvino-bfloat16: this CPU has no instructions for bfloat16, so its networks are computed in float32"
    )


@pytest.mark.parametrize(
    ("precision", "compared", "warning"),
    [
        ("float32", {}, None),
        ("float32", {"rule": {}}, None),  # its probabilities were compared, whatever is decided with them
        ("int8", {}, None),
        ("int8", {"rule": {}}, "was compared with Keras under another decision rule; to compare again, export the"),
        ("int8", {"flip": True}, "under another decision rule"),
        ("int8", {"cpu": {"vnni": True}}, "was compared with Keras on a CPU with VNNI, and without it 8-bit products"),
        ("int8", {"cpu": {"vnni": False}}, None),
        ("int8", {"not_quantised": ["segmenter_1"]}, "not quantised, and so computed in float32: segmenter_1"),
        (
            "float32",
            {"problems": ["the first: i7"]},
            "it was accepted although it differs from Keras by more than it may",
        ),
    ],
)
def test_doubts_about_an_export_are_logged_when_it_is_loaded(folder, precision, compared, warning, monkeypatch, caplog):
    monkeypatch.setattr(exports, "has_vnni", lambda: False)
    write_export(folder, "onnx", precision, **compared)
    with caplog.at_level("WARNING", "pneumoseg"):
        load_pipeline(folder, engine="onnx")
    found = own_messages(caplog)
    assert len(found) == (warning is not None)
    assert all(warning in message and f"onnx-{precision}" in message for message in found)
    assert "i7" not in caplog.text  # the log of a service names no image


def test_the_engine_is_part_of_the_digest_unless_it_is_keras(folder):
    write_export(folder)
    keras, openvino = load_pipeline(folder), load_pipeline(folder, engine="openvino")
    # The digest of networks, rule and flip alone, as it was before there were other engines.
    assert keras.digest == replace(openvino, engine=Engine()).digest
    others = [Engine("openvino", "int8"), Engine("openvino", "float32", "ab"), Engine("onnx", "float32")]
    assert len({keras.digest, openvino.digest, *(replace(openvino, engine=engine).digest for engine in others)}) == 5
    assert openvino.predict(picture(9)).pipeline_digest == openvino.digest


def test_jupyter_names_the_engine(folder):
    write_export(folder)
    assert "engine: OpenVINO, float32" in load_pipeline(folder, engine="openvino")._repr_html_()


def test_identity_of_results():
    assert Engine().identity == {}
    assert Engine("onnx", "int8", "ab").identity == {"engine": {"name": "onnx", "precision": "int8", "sha256": "ab"}}
    with pytest.raises(ValueError, match="engine is 'tensorrt', expected one of keras, openvino, onnx"):
        Engine("tensorrt")
    assert json.loads(json.dumps(asdict(Engine()))) == {"name": "keras", "precision": "float32", "sha256": ""}
