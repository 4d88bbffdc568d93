"""The rivals of bench/peers.py: each sets one layer up, checks its own result, and offers a call to time."""
import os
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.simplefilter("ignore")

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from bitorch.layers import QConv1d
from bitorch.layers.qconv1d import QConv1d_NoAct
from importlib.metadata import version

from pairs import Pair

torch.set_num_threads(1)
torch.set_grad_enabled(False)  # Job.begin switches it on for training steps

PAD_VALUE = -1.0  # bitorch's default


def bitorch_layer(row, pair, weight, threshold=None):
    """bitorch's layer with the padding of the row, which its constructor does not take: one number for both sides."""
    kwargs = dict(stride=row.stride, dilation=row.dilation, groups=row.groups, pad_value=PAD_VALUE,
                  weight_quantization=pair.weight.module())
    if pair.noact:
        layer = QConv1d_NoAct(row.in_channels, row.out_channels, row.kernel_size, **kwargs)
    else:
        layer = QConv1d(row.in_channels, row.out_channels, row.kernel_size, bias=False,
                        input_quantization=pair.input.module(), gradient_cancellation_threshold=threshold, **kwargs)
    layer._reversed_padding_repeated_twice = [row.pad_left, row.pad_right]  # what forward uses
    layer.weight.data = torch.from_numpy(weight)
    return layer


class Problem:
    """One workload row with its data; the rivals share the arrays."""

    def __init__(self, row, pair, seed=0):
        self.row, self.pair = row, pair
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((row.batch, row.in_channels, row.width), dtype=np.float32)
        self.weight = rng.standard_normal(
            (row.out_channels, row.in_channels // row.groups, row.kernel_size), dtype=np.float32)

    def expect(self, x, weight, pad_value, quantize_x):
        """A few outputs in double precision: (values, positions), first and last channel at three places."""
        r = self.row
        per_group, out_per_group = r.in_channels // r.groups, r.out_channels // r.groups
        positions = sorted({0, r.width_out // 2, r.width_out - 1})
        values = []
        for t in positions:
            at = t * r.stride - r.pad_left + r.dilation * np.arange(r.kernel_size)
            inside = (at >= 0) & (at < r.width)
            for o in (0, r.out_channels - 1):
                g = o // out_per_group
                rows = quantize_x(x[0, g * per_group:(g + 1) * per_group][:, np.clip(at, 0, r.width - 1)])
                terms = np.where(inside, rows, pad_value).astype(np.float64) * weight[o]
                values.append(float(terms.sum()))
        return np.array(values), positions

    def pick(self, y, positions):
        return np.array([y[0, o, t] for t in positions for o in (0, self.row.out_channels - 1)], dtype=np.float64)

    def check(self, name, y, want, tolerance):
        got = self.pick(y, want[1])
        error = float(np.abs(got - want[0]).max())
        if not error <= tolerance:
            raise AssertionError(f"{name} computes something else: error {error:g}, allowed {tolerance:g}")
        return error


def float_tolerance(weight):
    """Float32 sums, and one 8-bit level rounded the other way."""
    return 0.02 + 1e-4 * np.sqrt(weight[0].size) * float(np.abs(weight).max())


class Bitorch:
    """bitorch's layer, eager, float32: quantizes its weights in every call, as it does for its users."""
    key = "bitorch"

    def __init__(self, problem):
        pair = problem.pair
        layer = bitorch_layer(problem.row, pair, problem.weight)
        layer.eval()
        x = torch.from_numpy(problem.x)
        self.call = lambda: layer(x)
        weight = pair.weight(problem.weight)
        self.error = problem.check(self.key, self.call(), problem.expect(problem.x, weight, PAD_VALUE, pair.input),
                                   float_tolerance(weight))


class TorchConv:
    """PyTorch's float32 convolution alone: the input is already quantized and padded, the weight quantized."""
    key = "conv1d"

    def __init__(self, problem):
        r, pair = problem.row, problem.pair
        quantize = pair.input.module() if not pair.noact else (lambda v: v)
        x = torch.nn.functional.pad(quantize(torch.from_numpy(problem.x)), [r.pad_left, r.pad_right], value=PAD_VALUE)
        weight = pair.weight(problem.weight)
        w = torch.from_numpy(weight.astype(np.float32))
        self.call = lambda: torch.nn.functional.conv1d(x, w, None, r.stride, 0, r.dilation, r.groups)
        self.error = problem.check(self.key, self.call(), problem.expect(problem.x, weight, PAD_VALUE, pair.input),
                                   float_tolerance(weight))


def session(nodes, constants, x_shape, y_shape):
    graph = helper.make_graph(
        nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound_call(session, x, y_shape):
    """A call on tensors bound once: no copies, no allocation of outputs."""
    binding = session.io_binding()
    x_value = ort.OrtValue.ortvalue_from_numpy(x)
    y_value = ort.OrtValue.ortvalue_from_numpy(np.zeros(y_shape, np.float32))
    binding.bind_ortvalue_input("x", x_value)
    binding.bind_ortvalue_output("y", y_value)
    # The values must outlive the call; the default arguments hold them.
    return lambda keep=(x_value, y_value): session.run_with_iobinding(binding), y_value


class OrtInt8:
    """ONNX Runtime: QuantizeLinear, QLinearConv (u8 x s8, a scale per channel), DequantizeLinear; float in and out."""
    key = "ort"

    def __init__(self, problem):
        r = problem.row
        scale_x, zero_x = np.float32(8 / 255), np.uint8(128)
        weight = np.clip(np.round(problem.weight * 32), -127, 127).astype(np.int8)
        scale_w = np.full(r.out_channels, 1 / 32, np.float32)
        terms = weight[0].size
        scale_y = np.float32(8 * np.sqrt(terms) * 1.2 / 255)
        constants = dict(sx=np.array(scale_x), zx=np.array(zero_x), w=weight, sw=scale_w,
                         zw=np.zeros(r.out_channels, np.int8), sy=np.array(scale_y), zy=np.array(np.uint8(128)))
        conv = dict(kernel_shape=[r.kernel_size], strides=[r.stride], pads=[r.pad_left, r.pad_right],
                    dilations=[r.dilation], group=r.groups)
        nodes = [helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["a"]),
                 helper.make_node("QLinearConv", ["a", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["b"], **conv),
                 helper.make_node("DequantizeLinear", ["b", "sy", "zy"], ["y"])]
        y_shape = [r.batch, r.out_channels, r.width_out]
        self.call, y = bound_call(session(nodes, constants, list(problem.x.shape), y_shape), problem.x, y_shape)
        self.call()
        quantize = lambda v: np.clip(np.round(v.astype(np.float64) / scale_x), -128, 127) * scale_x
        values, positions = problem.expect(problem.x, weight / 32.0, 0.0, quantize)
        values = np.clip(values, -128 * scale_y, 127 * scale_y)
        self.error = problem.check(self.key, y.numpy(), (values, positions), 1.01 * float(scale_y))


def ort_call_overhead():
    """A call of a model that does nothing but copy one number: what Python and the session cost by themselves."""
    one = [1, 1, 1]
    call, _ = bound_call(session([helper.make_node("Identity", ["x"], ["y"])], {}, one, one),
                         np.zeros(one, np.float32), one)
    return call


RIVALS = {"sign/sign": (Bitorch, OrtInt8, TorchConv), "NoAct/sign": (Bitorch, TorchConv)}


class Job:
    """What is timed of a pair: the sides that `qconvc bench` times, by direction, and those timed in this process."""

    def __init__(self, name, pair, directions, sides, passes=1, problem=Problem, gradients=False):
        self.name, self.pair, self.directions, self.sides = name, pair, directions, sides
        self.passes = passes  # convolutions' worth of multiply-adds in one call
        self.problem = problem
        self.gradients = gradients

    def begin(self):
        """Sets whether PyTorch records operations for gradients: outside of what is timed, and the same for all sides."""
        torch.set_grad_enabled(self.gradients)


def forward_job(pair_name):
    return Job(pair_name, Pair(pair_name), dict(qconv="forward"), RIVALS.get(pair_name, (Bitorch, OrtInt8)))


def versions():
    return dict(python=sys.version.split()[0], torch=torch.__version__, bitorch=version("bitorch"),
                onnxruntime=ort.__version__, onnx=onnx.__version__, numpy=np.__version__,
                torch_cpu=torch.backends.cpu.get_cpu_capability())
