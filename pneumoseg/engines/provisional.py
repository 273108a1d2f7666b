import numpy as np


class _Net:
    def __init__(self, path, name, image_size, parameters, precision, batch_size):
        self.name, self.image_size, self.parameters = name, image_size, parameters
        self.setup(path, precision)

    def __call__(self, images):
        return self.run(images.astype(np.float32))


class OpenVinoNetwork(_Net):
    def setup(self, path, precision):
        import openvino as ov

        hint = "bf16" if precision == "bfloat16" else "f32"
        self.m = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def run(self, x):
        return self.m(x)[0].copy()


class OnnxNetwork(_Net):
    def setup(self, path, precision):
        import onnxruntime as ort

        so = ort.SessionOptions()
        so.add_session_config_entry("session.x64quantprecision", "1")
        self.s = ort.InferenceSession(str(path), so, providers=["CPUExecutionProvider"])

    def run(self, x):
        return self.s.run(None, {self.s.get_inputs()[0].name: x})[0]


def computes_bfloat16():
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
