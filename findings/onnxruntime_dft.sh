#!/usr/bin/env bash
# The operator DFT of ONNX Runtime 1.32.0 on float32 is less exact than NumPy's transform on float32: for a tone, more
# than ten times the error. What follows takes logarithms of bands that are almost silent next to it, so that this is seen.
#
# Seen: the largest error relative to the largest magnitude, "NumPy 3e-08, ONNX Runtime 4e-07".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

size = 1024
time = np.arange(size) / 16000
tone = (0.9 * np.sin(2 * np.pi * 440 * time) * np.hanning(size)).astype(np.float32)

given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size, 1])
result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size // 2 + 1, 2])
axis = helper.make_tensor("axis", TensorProto.INT64, [], [1])
node = helper.make_node("DFT", ["x", "", "axis"], ["y"], onesided=1)
graph = helper.make_graph([node], "dft", [given], [result], [axis])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
(pairs,) = InferenceSession(model.SerializeToString()).run(None, {"x": tone[None, :, None]})

exact = np.fft.rfft(tone.astype(np.float64))
errors = [
    np.abs(found - exact).max() / np.abs(exact).max()
    for found in (np.fft.rfft(tone), pairs[0, :, 0] + 1j * pairs[0, :, 1])
]
print("NumPy {:.0e}, ONNX Runtime {:.0e}".format(*errors))
assert errors[1] > 2 * errors[0]
PYTHON
