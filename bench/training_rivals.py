"""The sides of `bench/peers.py --training`: training steps, each gradient alone, inference through the Python module.

Each sets one layer up, checks its own results, and offers a call to time, as those of rivals.py.
"""
import numpy as np
import torch

from pairs import Pair
from rivals import PAD_VALUE, Bitorch, Job, Problem, bitorch_layer, float_tolerance

THRESHOLD = 1.0  # of gradient cancellation: bitorch's default


class TrainingProblem(Problem):
    """A row with the gradient that comes back, and what a few elements of the results must be, in double precision."""

    def __init__(self, row, pair, seed=0):
        super().__init__(row, pair, seed)
        rng = np.random.default_rng(seed + 1)
        self.grad_output = rng.standard_normal((row.batch, row.out_channels, row.width_out), dtype=np.float32)
        self.quantized_weight = pair.weight(self.weight).astype(np.float32)

    def padded(self):
        """The quantized input with its padding, as PyTorch's convolution gets it."""
        r = self.row
        x = self.x if self.pair.noact else self.pair.input(self.x)
        return np.pad(x.astype(np.float32), ((0, 0), (0, 0), (r.pad_left, r.pad_right)), constant_values=PAD_VALUE)

    def expect_y(self):
        return self.expect(self.x, self.quantized_weight, PAD_VALUE, self.pair.input)

    def grad_input_places(self):
        r = self.row
        return [(c, i) for c in {0, r.in_channels - 1} for i in {0, r.width // 2, r.width - 1}]

    def expect_grad_input(self):
        """The convolution's own, without what the quantizer makes of it."""
        r, values = self.row, []
        per_group, out_per_group = r.in_channels // r.groups, r.out_channels // r.groups
        taps = np.arange(r.kernel_size)
        for c, i in self.grad_input_places():
            g = c // per_group
            outputs = slice(g * out_per_group, (g + 1) * out_per_group)
            at = i + r.pad_left - taps * r.dilation
            hit = (at % r.stride == 0) & (at >= 0) & (at // r.stride < r.width_out)
            gy = self.grad_output[0, outputs][:, at[hit] // r.stride].astype(np.float64)
            values.append(float((gy * self.quantized_weight[outputs, c % per_group][:, taps[hit]]).sum()))
        return np.array(values)

    def input_factors(self):
        """What the layer multiplies them with: the mask and the quantizer's derivative."""
        x = np.array([self.x[0, c, i] for c, i in self.grad_input_places()])
        return np.ones(len(x)) if self.pair.noact else (np.abs(x) <= THRESHOLD) * self.pair.input.derivative(x)

    def grad_weight_places(self):
        o, c, k = self.weight.shape
        return [(0, 0, 0), (o // 2, c // 2, k // 2), (o - 1, c - 1, k - 1)]

    def expect_grad_weight(self):
        r, values, padded = self.row, [], self.padded()
        per_group, out_per_group = r.in_channels // r.groups, r.out_channels // r.groups
        for o, c, k in self.grad_weight_places():
            channel = o // out_per_group * per_group + c
            start = k * r.dilation
            xq = padded[:, channel, start:start + r.stride * (r.width_out - 1) + 1:r.stride].astype(np.float64)
            values.append(float((xq * self.grad_output[:, o]).sum()))
        return np.array(values)

    def weight_factors(self):
        return self.pair.weight.derivative([self.weight[place] for place in self.grad_weight_places()])

    def check_gradients(self, name, grad_input, grad_weight, whole, rounding, offset=0):
        """whole: of the layer with its quantizers, not of the convolution alone. `rounding`: that of one result, as a
        share of the sum's size. offset: of grad_input's positions."""
        r = self.row
        checks = []
        if grad_input is not None:
            terms = r.out_channels // r.groups * r.kernel_size / r.stride
            got = [float(grad_input[0, c, i + offset]) for c, i in self.grad_input_places()]
            checks.append(("grad_input", got, self.expect_grad_input(), self.input_factors(), terms))
        if grad_weight is not None:
            got = [float(grad_weight[place]) for place in self.grad_weight_places()]
            checks.append(("grad_weight", got, self.expect_grad_weight(), self.weight_factors(),
                           r.batch * r.width_out))
        worst = 0.0
        for what, got, want, factors, terms in checks:
            factors = factors if whole else np.ones_like(factors)
            errors = np.abs(np.array(got) - want * factors)
            allowed = rounding * (1 + np.sqrt(terms)) * np.maximum(1, np.abs(factors))
            if not (errors <= allowed).all():
                at = int(np.argmax(~(errors <= allowed)))
                raise AssertionError(f"{name} computes another {what}: error {errors[at]:g}, allowed {allowed[at]:g}")
            worst = max(worst, float(errors.max()))
        return worst


FLOAT32, BFLOAT16 = 1e-3, 0.08  # `rounding` above


class Step:
    """Forward and both gradients of one layer, its weights as good as changed since the last step."""
    rounding = FLOAT32

    def __init__(self, problem):
        self.layer = self.make(problem)
        self.weight = self.layer.weight
        self.x = torch.from_numpy(problem.x).requires_grad_()
        self.grad_output = torch.from_numpy(problem.grad_output)
        self.leaves = self.x, self.weight
        self.versions = 0
        self.grad_output = self.grad_output.to(self.forward().dtype)
        y, (grad_input, grad_weight) = self.call()
        tolerance = float_tolerance(problem.quantized_weight) + self.rounding * np.sqrt(problem.weight[0].size)
        self.error = problem.check(self.key, y.detach().float(), problem.expect_y(), tolerance)
        self.error = max(self.error, problem.check_gradients(self.key, grad_input, grad_weight, True, self.rounding))

    def make(self, problem):
        return bitorch_layer(problem.row, problem.pair, problem.weight, THRESHOLD)

    def forward(self):
        return self.layer(self.x)

    def call(self):
        # An optimizer changes the weights between steps: nothing made of them may be kept.
        self.versions += 1
        torch._C._autograd._unsafe_set_version_counter((self.weight,), (self.versions,))
        y = self.forward()
        return y, torch.autograd.grad(y, self.leaves, self.grad_output)


class BitorchStep(Step):
    key = "bitorch"


class BitorchBf16Step(Step):
    """bitorch under autocast: its convolutions run in bfloat16, forward and backward."""
    key, rounding = "bitorch_bf16", BFLOAT16

    def forward(self):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(self.x)


class BitorchCompiledStep(Step):
    """bitorch through torch.compile; it compiles for a while on every shape."""
    key = "bitorch_compile"

    def make(self, problem):
        torch._dynamo.reset()
        return torch.compile(super().make(problem), dynamic=False)


def our_layer(row, pair, weight):
    import qconv  # here, because --rivals-only runs without it

    kwargs = dict(stride=row.stride, padding=(row.pad_left, row.pad_right), dilation=row.dilation, groups=row.groups,
                  pad_value=PAD_VALUE)
    kwargs["weight_quantization"] = pair.weight.module()
    if pair.noact:
        layer = qconv.QConv1d_NoAct(row.in_channels, row.out_channels, row.kernel_size, **kwargs)
    else:
        layer = qconv.QConv1d(row.in_channels, row.out_channels, row.kernel_size,
                              input_quantization=pair.input.module(), gradient_cancellation_threshold=THRESHOLD,
                              **kwargs)
    layer.weight.data = torch.from_numpy(weight)
    return layer


class QconvStep(Step):
    key = "qconv"

    def make(self, problem):
        return our_layer(problem.row, problem.pair, problem.weight)


class Gradient:
    """PyTorch's convolution_backward alone, of one gradient: no mask, everything quantized and padded before."""
    rounding, dtype = FLOAT32, torch.float32

    def __init__(self, problem):
        r = problem.row
        x = torch.from_numpy(problem.padded()).to(self.dtype)
        weight = torch.from_numpy(problem.quantized_weight).to(self.dtype)
        grad_output = torch.from_numpy(problem.grad_output).to(self.dtype)
        backward, which = torch.ops.aten.convolution_backward, self.which
        self.call = lambda: backward(grad_output, x, weight, None, [r.stride], [0], [r.dilation], False, [0], r.groups,
                                     [which == "grad_input", which == "grad_weight", False])
        grad_input, grad_weight, _ = self.call()
        self.error = problem.check_gradients(self.key, grad_input, grad_weight, False, self.rounding, r.pad_left)


class GradInput(Gradient):
    key, which = "backward", "grad_input"


class GradInputBf16(GradInput):
    key, rounding, dtype = "backward_bf16", BFLOAT16, torch.bfloat16


class GradWeight(Gradient):
    key, which = "backward", "grad_weight"


class GradWeightBf16(GradWeight):
    key, rounding, dtype = "backward_bf16", BFLOAT16, torch.bfloat16


class QconvModule:
    """Inference through the Python module."""
    key = "qconv"

    def __init__(self, problem):
        layer = our_layer(problem.row, problem.pair, problem.weight).eval()
        x = torch.from_numpy(problem.x)
        self.call = lambda: layer(x)
        self.error = problem.check(self.key, self.call(), problem.expect_y(), float_tolerance(problem.quantized_weight))


class TorchModule:
    """torch.nn.Conv1d on input already quantized and padded: what a call of PyTorch's own module costs."""
    key = "nn_conv1d"

    def __init__(self, problem):
        r = problem.row
        layer = torch.nn.Conv1d(r.in_channels, r.out_channels, r.kernel_size, r.stride, 0, r.dilation, r.groups, False)
        layer.weight.data = torch.from_numpy(problem.quantized_weight)
        x = torch.from_numpy(problem.padded())
        self.call = lambda: layer(x)
        self.error = problem.check(self.key, self.call(), problem.expect_y(), float_tolerance(problem.quantized_weight))


def training_jobs(pair_name):
    def job(what, directions, sides, training=True, **kwargs):
        return Job(f"{what}, {pair_name}", Pair(pair_name, training), directions, sides, problem=TrainingProblem, **kwargs)

    steps = (QconvStep, BitorchStep, BitorchBf16Step, BitorchCompiledStep)
    return [job("training step", dict(qconv_c="step"), steps, passes=3, gradients=True),
            job("grad_input", dict(qconv="grad-input"), (GradInput, GradInputBf16)),
            job("grad_weight", dict(qconv="grad-weight"), (GradWeight, GradWeightBf16)),
            job("inference through the module", dict(qconv_c="forward"), (QconvModule, Bitorch, TorchModule),
                training=False)]


def call_overhead():
    """A call of a layer of one multiply-add, which has next to no work: ours and torch.nn.Conv1d's."""
    import qconv

    x = torch.zeros(1, 1, 1)
    ours, theirs = qconv.QConv1d(1, 1, 1).eval(), torch.nn.Conv1d(1, 1, 1, bias=False).eval()
    return dict(qconv=lambda: ours(x), nn_conv1d=lambda: theirs(x))
