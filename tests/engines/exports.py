"""Exports made by hand: a classifier that gives the brightest pixel / 255, a segmenter that gives each pixel / 255."""

from dataclasses import asdict

import numpy as np

from pneumoseg.engines.export_record import EXPORTS, ExportRecord, sum_files, write_record
from pneumoseg.inference import PipelineFolder

SIZE = 32  # of the networks of the `pipeline` fixture


def save_openvino(path, kind):
    import openvino
    import openvino.opset13 as ops

    image = ops.parameter([-1, SIZE, SIZE, 1], np.float32)
    scaled = ops.divide(image, np.float32(255))
    output = ops.reduce_max(scaled, np.array([1, 2]), keep_dims=False) if kind == "classifier" else scaled
    openvino.save_model(openvino.Model([output], [image]), path, compress_to_fp16=False)


def save_onnx(path, kind):
    import onnx
    from onnx import TensorProto, helper

    shape = ["n", SIZE, SIZE, 1]
    nodes = [helper.make_node("Div", ["image", "white"], ["scaled"])]
    if kind == "classifier":
        nodes.append(helper.make_node("ReduceMax", ["scaled"], ["output"], axes=[1, 2], keepdims=0))
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 1])
            if kind == "classifier"
            else helper.make_tensor_value_info("scaled", TensorProto.FLOAT, shape)
        ],
        [helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_export(pipeline, engine="openvino", precision="float32", cpu=None, **comparison):
    """Write an export into a pipeline's folder, with facts about its CPU and its comparison; return its folder."""
    record = PipelineFolder.read(pipeline)
    networks = record.networks
    folder = pipeline / EXPORTS / f"{engine}-{precision}"
    folder.mkdir(parents=True)
    for name in networks:
        kind = name.partition("_")[0]
        if engine == "openvino":
            save_openvino(folder / f"{name}.xml", kind)
        else:
            save_onnx(folder / f"{name}.onnx", kind)
    facts = {name: {"name": f"{name}_by_hand", "image_size": SIZE, "parameters": 1} for name in networks}
    comparison = {"problems": [], "rule": asdict(record.rule), "flip": record.flip, **comparison}
    write_record(folder, ExportRecord(engine, precision, networks, facts, sum_files(folder), comparison, {}, cpu or {}))
    return folder
