"""How much memory and disk a training will take, before it takes any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from wdm_cli.engine.diffusion import loss, make_schedule
from wdm_cli.engine.models.blocks import Network
from wdm_cli.engine.models.settings import NetworkSettings
from wdm_cli.engine.preset import Preset

FLOAT = 4  # bytes
CHECKPOINT = 4  # weights, EMA and two moments of AdamW
TRANSIENT = 4  # full-size tensors that a step works on at a time: gradients, workspaces of the convolutions
WITHOUT_LOOPS = 6  # more of them, in float32, where PyTorch's own operations do what the compiled loops would
TRANSIENT_AT_MOST = 8
LIBRARIES = 330e6  # what Python and torch take by themselves


@dataclass(frozen=True)
class Estimate:
    """Bytes. `training` is the peak of a step, `disk` the run folder with `train.keep` checkpoints."""

    parameters: int
    activations: int
    training: int
    checkpoint: int
    disk: int


def estimate(preset: Preset, *, loops: bool = True) -> Estimate:
    """Count what autograd would keep, by one step on the meta device: shapes only, no memory.

    loops: the compiled loops will be at work (`native.at_work`).
    """
    with torch.device("meta"):
        network = preset.network()
    count = sum(p.numel() for p in network.parameters())
    kept, largest, of_a_block = _saved_bytes(network, preset)
    more = 0 if loops else WITHOUT_LOOPS * largest
    if preset.train.checkpointing:  # the inputs of all blocks, and one block at a time in full
        network.checkpointing = True
        kept = _saved_bytes(network, preset)[0] + of_a_block
    if preset.train.precision == "bf16":
        kept, largest = kept // 2, largest // 2
    parts = preset.train.batch_size // preset.train.accumulate
    weights = count * FLOAT
    # weights, gradients, two moments of AdamW, EMA
    peak = 5 * weights + parts * (kept + TRANSIENT * largest + more) + int(LIBRARIES)
    checkpoint = CHECKPOINT * weights
    return Estimate(count, parts * kept, peak, checkpoint, (preset.train.keep + 1) * checkpoint)


def checkpoint_bytes(preset: Preset) -> int:
    """Bytes of a checkpoint of this network; at once, because nothing is computed."""
    with torch.device("meta"):
        network = preset.network()
    return CHECKPOINT * FLOAT * sum(p.numel() for p in network.parameters())


def _saved_bytes(network: Network, preset: Preset) -> tuple[int, int, int]:
    """Bytes kept for the backward pass of one volume: all of them, the largest tensor's, the largest block's."""
    sizes: dict[int, int] = {}
    blocks: list[int] = []
    alive: list[Tensor] = []
    own = {id(p) for p in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # an address must not be used twice
        return tensor

    def run(block: torch.nn.Module, *inputs: Tensor) -> Any:
        before = sum(sizes.values())
        output = type(network).run(network, block, *inputs)
        blocks.append(sum(sizes.values()) - before)
        return output

    diffusion = preset.diffusion
    schedule = make_schedule(diffusion.schedule, diffusion.steps)
    x0 = torch.empty(1, preset.space.channels, *preset.space.sides(preset.data.shape), device="meta")
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    network.run = run  # type: ignore[method-assign]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(network, x0, torch.empty_like(x0), t, schedule).mean()
    return sum(sizes.values()), max(sizes.values(), default=0), max(blocks, default=0)


def at_most(network: Network, preset: Preset, *, training: bool, batch_size: int) -> int:
    """Peak bytes by a rule of thumb that errs upwards, at no cost: so many feature tensors live at a time.

    In training a residual block keeps two, one a convolution (and two more behind dropout); a level has 2·res_blocks
    of them, and a few more. In sampling the encoder's outputs wait for the decoder.
    """
    model = preset.model
    blocks = model.res_blocks
    if training:
        copies, tensors = 5, 4 * blocks + 10 + TRANSIENT_AT_MOST
        if model.dropout:
            tensors += 4 * blocks + 6
    else:
        copies, tensors = 2, blocks + TRANSIENT_AT_MOST
    weights = FLOAT * sum(p.numel() for p in network.parameters())
    voxels = math.prod(preset.space.sides(preset.data.shape))
    return (
        copies * weights
        + int(batch_size * tensors * FLOAT * voxels * _channels(model, preset.space.channels))
        + int(LIBRARIES)
    )


def _channels(model: NetworkSettings, channels: int) -> float:
    """Channels of a tensor at every level, a level's counted as the part of the first that its voxels are."""
    widths = (channels, *model.widths, *model.widths[-1:] * model.extra_halvings)
    # the way up may still have the channels of the level above, or of the one before
    return sum(max(pair) * 0.125**level for level, pair in enumerate(pairwise(widths)))
