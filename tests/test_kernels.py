"""The lean kernels against their plain twins: values and gradients, in both precisions and both layouts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wdm_cli.config import resolve
from wdm_cli.engine import native
from wdm_cli.engine.bench import InMemory
from wdm_cli.engine.haar import haar, inverse_haar
from wdm_cli.engine.models import kernels
from wdm_cli.engine.models.kernels import Norm
from wdm_cli.engine.train import Trainer
from wdm_cli.engine.wavelet import plain_dwt, plain_idwt

COMPILED = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "PyTorch's own"])
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # bf16 keeps eight bits


@pytest.fixture(autouse=True)
def _compiled_or_not(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the compiled loops, but where a test's parameter `compiled` says no."""
    native.switch(getattr(request.node, "callspec", None) is None or request.node.callspec.params.get("compiled", True))
    yield
    native.switch(True)


def compare(
    lean: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    x: Tensor,
    *parameters: Tensor,
    layout: torch.memory_format = torch.contiguous_format,
) -> None:
    """Values and gradients of both; the plain twin computes in float32, on the same rounded input."""
    results = []
    for function, leaf in ((lean, x), (plain, x.float())):
        leaf = leaf.clone(memory_format=layout if x.dim() == 5 else torch.contiguous_format).requires_grad_()
        own = [p.clone().requires_grad_() for p in parameters]
        out = function(leaf, *own)
        weights = torch.arange(out.numel(), dtype=torch.float32).view(out.shape).sin().bfloat16()  # exact in both
        gradients = torch.autograd.grad((out.float() * weights).sum(), (leaf, *own))
        results.append((out, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        scale = theirs.abs().max().item()
        assert (ours.float() - theirs).abs().max().item() <= TOLERANCE[x.dtype] * max(1.0, scale)


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1).to(dtype)


def norms(channels: int) -> tuple[Tensor, Tensor]:
    return noise(channels, seed=1), noise(channels, seed=2)


SHAPES = [(2, 8, 3, 5, 4), (1, 24, 6, 4, 2), (2, 64, 16, 12, 8), (1, 8, 1, 1, 2)]


@PRECISIONS
@LAYOUTS
@COMPILED
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_act(shape: tuple[int, ...], compiled: bool, layout: torch.memory_format, dtype: torch.dtype) -> None:

    def of(function: Any) -> Callable[..., Tensor]:
        return lambda x, weight, bias: function(x, Norm(weight, bias, 4, 1e-5))

    lean, plain = of(kernels.norm_act), of(kernels.plain_norm_act)
    compare(lean, plain, noise(*shape, dtype=dtype), *norms(shape[1]), layout=layout)


@PRECISIONS
def test_norm_act_keeps_the_digits_of_a_small_variance_beside_a_large_mean(dtype: torch.dtype) -> None:
    """Against float64, where float32 sums of squares would leave nothing."""
    x = (noise(1, 8, 16, 16, 16).double() + 3000).to(dtype)
    weight, bias = norms(8)
    exact = F.silu(F.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-5))
    ours = kernels.norm_act(x, Norm(weight, bias, 4, 1e-5))
    assert (ours - exact).abs().max() <= 50 * TOLERANCE[dtype] * exact.abs().max()  # 3000 takes digits from x itself


@pytest.mark.parametrize("far", [10.0, 100.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 8, 16, 16, 16), (1, 64, 32, 32, 32)], ids=str)
def test_a_single_value_far_off_takes_no_digits_from_the_rest(shape: tuple[int, ...], far: float) -> None:
    x = noise(*shape)
    x[:, :, 0, 0, 0] += far
    weight, bias = norms(shape[1])
    exact = F.silu(F.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-5))
    ours = kernels.norm_act(x, Norm(weight, bias, 4, 1e-5))
    assert ((ours - exact).abs() / (1 + exact.abs())).max() < 1e-5


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (6, 4), (2, 4)])
def test_parameters_that_do_not_fit_are_refused(channels: int, groups: int) -> None:
    count = 8 if channels == 16 else channels
    with pytest.raises(
        ValueError, match=f"{count} weights and {count} biases in {groups} groups for {channels} channels"
    ):
        kernels.norm_act(noise(1, channels, 4, 4, 4), Norm(torch.ones(count), torch.zeros(count), groups, 1e-5))


@COMPILED
def test_parameters_may_lie_apart_and_defaults_be_others(compiled: bool) -> None:
    x, (weight, bias) = noise(1, 8, 4, 4, 4), norms(16)
    apart = Norm(weight[::2], bias[:1].expand(8), 4, 1e-5)
    exact = kernels.plain_norm_act(x, Norm(apart.weight.clone(), apart.bias.clone(), 4, 1e-5))
    torch.set_default_dtype(torch.bfloat16)
    try:
        ours = kernels.norm_act(x, apart)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(ours, exact, atol=1e-5)


@PRECISIONS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_hidden(bad: float, dtype: torch.dtype) -> None:
    x = noise(1, 8, 4, 4, 4, dtype=dtype)
    x[0, 3, 1, 2, 3] = bad
    assert not kernels.norm_act(x, Norm(*norms(8), 4, 1e-5))[0, 2:4].isfinite().any()
    leaf = noise(1, 8, 4, 4, 4, dtype=dtype).requires_grad_()
    kernels.norm_act(leaf, Norm(*norms(8), 4, 1e-5)).backward(x)
    assert leaf.grad is not None
    assert not leaf.grad[0, 2:4].isfinite().any()
    assert not haar(x).isfinite().all()
    assert not kernels.average_pool(x).isfinite().all()


@PRECISIONS
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    x, grad = (noise(2, 24, 16, 16, 16, dtype=dtype, seed=seed) for seed in (0, 1))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf, parameters = x.clone().requires_grad_(), [p.requires_grad_() for p in norms(24)]
        out = kernels.norm_act(leaf, Norm(parameters[0], parameters[1], 4, 1e-5))
        results.append((out, *torch.autograd.grad(out, (leaf, *parameters), grad), haar(x)))
    torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_parameters_in_another_precision_are_not_misread() -> None:
    x, (weight, bias) = noise(1, 8, 4, 4, 4), norms(8)
    exact = kernels.plain_norm_act(x, Norm(weight, bias, 4, 1e-5))
    half = kernels.norm_act(x.bfloat16(), Norm(weight.bfloat16(), bias.bfloat16(), 4, 1e-5))
    assert (half.float() - exact).abs().max() < 5e-2 * exact.abs().max()


def test_sides_that_are_odd_are_pooled_as_pytorch_does() -> None:
    x = noise(1, 3, 5, 4, 7)
    assert torch.allclose(kernels.average_pool(x), kernels.plain_average_pool(x), atol=1e-6)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "permuted": lambda x: x.permute(0, 1, 4, 2, 3),
    "every second voxel": lambda x: x[:, :, ::2, :, ::2],
    "some channels": lambda x: x[:, 8:24],
    "one plane in memory as x, z": lambda x: (
        x[:1, :, :1, :2].permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)
    ),
}


@PRECISIONS
@COMPILED
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kernel", [0, 3])
def test_any_view_of_a_tensor_will_do(view: str, compiled: bool, kernel: int, dtype: torch.dtype) -> None:
    """Also for the gradient that comes back."""
    channels = 16 if view == "some channels" else 24
    conv = (noise(8, channels, 3, 3, 3, seed=3) / 20, noise(8, seed=4)) if kernel else ()

    def of(act: Any, act_conv: Any) -> Callable[..., Tensor]:
        def function(x: Tensor, weight: Tensor, bias: Tensor, *conv: Tensor) -> Tensor:
            norm = Norm(weight, bias, 4, 1e-5)
            out: Tensor = act_conv(VIEWS[view](x), norm, *conv) if conv else act(VIEWS[view](x), norm)
            return VIEWS["permuted"](out)

        return function

    lean = of(kernels.norm_act, kernels.norm_act_conv)
    plain = of(kernels.plain_norm_act, kernels.plain_norm_act_conv)
    compare(lean, plain, noise(2, 24, 6, 4, 8, dtype=dtype), *norms(channels), *conv)


@PRECISIONS
@LAYOUTS
@COMPILED
@pytest.mark.parametrize("resample", ["none", "average_pool", "nearest_upsample"])
@pytest.mark.parametrize(("channels", "kernel"), [(8, 3), (16, 3), (16, 1)])
def test_norm_act_conv(
    channels: int, kernel: int, resample: str, compiled: bool, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    weight, bias = noise(8, channels, kernel, kernel, kernel, seed=3) / 30, noise(8, seed=4)

    def of(function: Any, prefix: str) -> Callable[..., Tensor]:
        by_two = getattr(kernels, prefix + resample, None)
        return lambda x, *own: function(x, Norm(*own[:2], 4, 1e-5), *own[2:], by_two)

    lean, plain = of(kernels.norm_act_conv, ""), of(kernels.plain_norm_act_conv, "plain_")
    x = noise(2, channels, 4, 8, 6, dtype=dtype)
    compare(lean, plain, x, *norms(channels), weight, bias, layout=layout)


def test_norm_act_conv_follows_autocast() -> None:
    x, (weight, bias) = noise(1, 8, 4, 4, 4), norms(8)
    conv = noise(8, 8, 3, 3, 3) / 30, noise(8)
    exact = kernels.plain_norm_act_conv(x, Norm(weight, bias, 4, 1e-5), *conv)
    with torch.autocast("cpu", torch.bfloat16):
        out = kernels.norm_act_conv(x, Norm(weight, bias, 4, 1e-5), *conv)
    assert out.dtype == torch.bfloat16
    assert 0 < (out.float() - exact).abs().max() < 2e-2 * exact.abs().max()


def test_norm_act_conv_keeps_only_its_input() -> None:
    x = noise(1, 16, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    kept = []
    conv = noise(16, 16, 3, 3, 3).requires_grad_(), noise(16)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kernels.norm_act_conv(x, Norm(*norms(16), 4, 1e-5), *conv)
    assert [tensor.data_ptr() for tensor in kept if tensor.numel() == x.numel()] == [x.data_ptr()]


@PRECISIONS
@LAYOUTS
@COMPILED
@pytest.mark.parametrize("name", ["average_pool", "nearest_upsample"])
def test_resampling(name: str, compiled: bool, layout: torch.memory_format, dtype: torch.dtype) -> None:
    lean, plain = getattr(kernels, name), getattr(kernels, f"plain_{name}")
    compare(lean, plain, noise(2, 3, 4, 8, 6, dtype=dtype), layout=layout)


@PRECISIONS
@LAYOUTS
@pytest.mark.parametrize("lll_scale", [1.0, 1 / 3, 3.0])
@pytest.mark.parametrize("channels", [1, 5])
def test_haar(channels: int, lll_scale: float, layout: torch.memory_format, dtype: torch.dtype) -> None:
    def lean(x: Tensor) -> Tensor:
        return haar(x, lll_scale)

    x = noise(2, channels, 8, 6, 4, dtype=dtype)
    compare(lean, lambda x: plain_dwt(x, "haar", lll_scale), x, layout=layout)
    bands = noise(2, 8, channels, 4, 3, 2, dtype=dtype)
    compare(lambda b: inverse_haar(b, lll_scale), lambda b: plain_idwt(b, "haar", lll_scale), bands)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", ["unet", "wavunet"])
def test_networks_learn_the_same_without_a_compiler(kind: str, precision: Any) -> None:
    sets = [
        f"model.kind={kind}",
        "model.base_channels=8",
        "model.groups=4",
        "model.res_blocks=2",
        "data.image_size=32",
        "train.batch_size=1",
    ]
    preset = resolve("tiny", sets=[*sets, f"train.precision={precision}", "train.steps=3"]).preset
    losses = []
    for on in (True, False):
        native.switch(on)
        losses.append([step.losses for step in Trainer(preset, InMemory(preset.data.shape), torch.device("cpu")).run()])
    assert torch.allclose(*map(torch.tensor, losses), rtol=1e-4 if precision == "float32" else 3e-2)


def test_what_lies_on_two_planes_is_convolved_in_float32_on_a_cpu() -> None:
    assert kernels.conv_precision(torch.empty(1, 8, 2, 4, 4), torch.bfloat16) is torch.float32
    assert kernels.conv_precision(torch.empty(1, 8, 4, 2, 2), torch.bfloat16) is torch.bfloat16
    # the gradient of the kernel is right there, call after call
    x, conv = noise(1, 8, 2, 2, 2), (noise(8, 8, 3, 3, 3) / 30, noise(8))
    found = []
    for _ in range(3):
        leaf = conv[0].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = kernels.norm_act_conv(x, Norm(*norms(8), 4, 1e-5), leaf, conv[1])
        out.float().square().sum().backward()
        found.append(leaf.grad)
    leaf = conv[0].clone().requires_grad_()
    F.conv3d(kernels.plain_norm_act(x, Norm(*norms(8), 4, 1e-5)), leaf, conv[1], padding=1).square().sum().backward()
    for gradient in found:
        assert (gradient - leaf.grad).norm() < 2e-2 * leaf.grad.norm()


def test_freed_memory_can_stay_with_the_process() -> None:
    code = (
        "import resource, torch; from wdm_cli.engine.device import keep_freed_memory; print(keep_freed_memory());"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt;"
        "torch.ones(2**23); before = faults(); all(torch.ones(2**23) is not None for _ in range(20));"
        "print(faults() - before)"
    )
    kept, faults = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    if kept == b"True":  # 20 tensors of 8,192 pages: all new without it, the first few places with it
        assert int(faults) <= 10 * 8192


def test_a_network_that_is_first_built_on_the_meta_device_leaves_the_transform_sound() -> None:
    """Its imports happen there too, and constants of modules must not become tensors without data."""
    code = (
        "import torch; from wdm_cli.config import resolve; preset = resolve('tiny').preset\n"
        "with torch.device('meta'): preset.network()\n"
        "from wdm_cli.engine.wavelet import decode, encode\n"
        "x = torch.randn(1, 1, 8, 8, 8); print(float((decode(encode(x)) - x).abs().max()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(found) < 1e-5
