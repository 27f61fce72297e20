"""Both networks against the official implementation: names, shapes, counts, outputs."""

from typing import Any

import pytest
import torch
from golden.recipe import digest, golden_state_dict, normal

from wdm_cli.engine.errors import FieldError
from wdm_cli.engine.models import MODELS, UNet, WavUNet
from wdm_cli.engine.models.blocks import timestep_embedding
from wdm_cli.engine.models.settings import NetworkSettings

SIX = (1, 2, 2, 4, 4, 4)
OFFICIAL = {
    "ours_unet_128": (UNet(), 57_914_824),
    "ours_unet_256": (UNet(channel_multipliers=SIX), 83_158_728),
    "ours_wnet_128": (WavUNet(), 89_706_056),
    "ours_wnet_256": (WavUNet(channel_multipliers=SIX), 125_499_720),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_names_shapes_and_count_are_the_official_ones(name: str, official_keys: dict[str, Any]) -> None:
    settings, count = OFFICIAL[name]
    with torch.device("meta"):
        network = settings.build(8, 8)
    state = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert list(state.items()) == list(official_keys[name].items())
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("name", "size"), [("ours_unet_128", 32), ("ours_wnet_128", 64)])
def test_golden_forward(name: str, size: int, golden: dict[str, Any], official_keys: dict[str, Any]) -> None:
    network = OFFICIAL[name][0].build(8, 8).eval()
    network.load_state_dict(golden_state_dict(official_keys[name]))
    with torch.no_grad():
        out = network(normal((1, 8, size // 2, size // 2, size // 2), 1), torch.tensor([10]))
    expected, found = golden[f"{name}/forward/size{size}/seed1/t10"], digest(out)
    worst = max(abs(a - b) for a, b in zip(found["value"], expected["value"], strict=True))
    assert worst <= 2e-4 * expected["std"]
    assert found["std"] == pytest.approx(expected["std"], rel=2e-4)


def small(kind: type[NetworkSettings], **changes: Any) -> NetworkSettings:
    blocks = 2 if kind is WavUNet else 1
    return kind(**{"base_channels": 8, "channel_multipliers": (1, 2), "res_blocks": blocks, "groups": 4, **changes})


def randomised(settings: NetworkSettings) -> Any:
    """A network without the zeros it starts with, so that every weight matters."""
    network = settings.build(8, 8)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("kind", MODELS)
def test_any_shape_that_fits_passes_and_others_are_refused(kind: type[NetworkSettings]) -> None:
    settings = small(kind)
    m = 2 * settings.size_multiple
    shape = (m, 2 * m, 3 * m)
    settings.check_size(shape, 1)
    x = torch.randn(2, 8, *(side // 2 for side in shape))
    assert settings.build(8, 8)(x, torch.tensor([0, 999])).shape == x.shape
    with pytest.raises(FieldError, match=f"multiple of {m} .nearest: {m} or {2 * m}"):
        settings.check_size((m, m + 2, m), 1)


@pytest.mark.parametrize("kind", MODELS)
def test_checkpointing_changes_no_gradient(kind: type[NetworkSettings]) -> None:
    network = randomised(small(kind, dropout=0.3))
    x, t = torch.randn(1, 8, 4, 8, 4), torch.tensor([7])
    gradients = []
    for checkpointing in (False, True):
        network.checkpointing = checkpointing
        torch.manual_seed(3)
        network.zero_grad()
        network(x, t).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", [UNet, WavUNet])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_lie_in_memory_as_the_weights_do(kind: type[NetworkSettings], precision: torch.dtype) -> None:
    """Otherwise autograd copies them, and DDP warns."""
    network = small(kind).build(8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        network(torch.randn(1, 8, 8, 8, 8), torch.tensor([3])).square().sum().backward()
    odd = [n for n, p in network.named_parameters() if p.grad is not None and p.grad.stride() != p.stride()]
    assert odd == []


def test_dropout_acts_in_training_only() -> None:
    network = randomised(small(UNet, dropout=0.5))
    x, t = torch.randn(1, 8, 4, 4, 4), torch.tensor([7])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def test_timestep_embedding_starts_with_cosines() -> None:
    row = timestep_embedding(torch.tensor([0, 3]), 8)
    assert torch.equal(row[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert row[1, 0].item() == pytest.approx(torch.cos(torch.tensor(3.0)).item())
    assert row[1, 5].item() == pytest.approx(torch.sin(torch.tensor(3 * 10000 ** (-1 / 4))).item())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_channels": 7}, "base_channels"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers"),
        ({"res_blocks": 0}, "res_blocks"),
        ({"groups": 3}, "groups"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as error:
        small(UNet, **changes)
    assert error.value.field == field


def test_the_wavunet_needs_two_blocks_a_level() -> None:
    with pytest.raises(FieldError, match="twice"):
        WavUNet(res_blocks=1)
