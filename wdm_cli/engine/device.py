"""Where to compute, and in what precision."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from wdm_cli.engine.diffusion import Denoiser
from wdm_cli.engine.errors import ResourceError
from wdm_cli.engine.models.blocks import Network

Precision = Literal["float32", "bf16"]


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; other names as torch spells them.

    Raises:
        ResourceError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise ResourceError(f"--device {name}: wdm computes on cpu and cuda devices only")
        if device.type == "cuda":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ResourceError(
            f"--device {name}: {reason}", hint="`wdm doctor` lists the devices; try auto or cpu"
        ) from None
    return device


def as_denoiser(network: Network, precision: Precision) -> Denoiser:
    """The network as a denoiser; under bf16 its convolutions and linear layers run in autocast.

    Norms, wavelets, the loss and the weights stay in float32.
    """
    if precision == "float32":
        return network

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            x0: Tensor = network(x_t, t)
        return x0

    return denoise


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it, so that clocks tell the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
