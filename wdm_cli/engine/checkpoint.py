"""Checkpoints: written whole, read safely, to and from the official format.

Three kinds of file are read. A *training checkpoint* of wdm holds everything (`save`); *bare weights* are
an official `.pt` (a flat mapping of names to tensors); *exported weights* are the same names as
safetensors with the preset in the metadata. Files are read without trust (`safe_load`).
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wdm_cli import __version__
from wdm_cli.engine.errors import CheckpointError, ConfigError
from wdm_cli.engine.files import atomic_publish, require_space, sha256_file, write_json
from wdm_cli.engine.models.blocks import Network
from wdm_cli.engine.preset import Preset, from_stored
from wdm_cli.engine.safe_load import (
    State,
    checked_sha256,
    is_old,
    is_state,
    read_pt,
    read_safetensors,
    weights_in,
    without_prefixes,
    write_pt,
    write_safetensors,
)

FORMAT = "wdm-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    preset: None for bare weights. ema: None where the file has one set of weights. training: the
    optimizer's state and what else the loop needs, in training checkpoints only.
    affine: 4×4 of the volumes it was trained on, None if the file does not say. sha256: of the file read.
    changes: in words, how it was read where other tools have put something around the weights.
    """

    path: Path
    weights: State
    preset: Preset | None = None
    step: int | None = None
    ema: State | None = None
    affine: list[list[float]] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    changes: tuple[str, ...] = ()


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a training checkpoint, then a manifest `path.json` that holds its sha256.

    Raises:
        ResourceError: the disk is full (checked before the start too), or the folder cannot be written.
    """
    assert checkpoint.preset is not None
    content = {
        "format": FORMAT,
        "wdm": __version__,
        "preset": json.dumps(checkpoint.preset.to_dict()),
        "step": checkpoint.step,
        "model": checkpoint.weights,
        "ema": checkpoint.ema,
        "affine": checkpoint.affine,
        "training": checkpoint.training,
    }
    require_space(path, _tensor_bytes(content))
    with contextlib.suppress(OSError):
        manifest_path(path).unlink()  # of a file that is about to be replaced
    with atomic_publish(path) as temporary:
        write_pt(temporary, content)
        digest = sha256_file(temporary)
    write_json(manifest_path(path), {"sha256": digest, "bytes": path.stat().st_size, "step": checkpoint.step})


def _tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested mappings."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_tensor_bytes, value.values())) if isinstance(value, Mapping) else 0


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read(path: Path) -> Checkpoint:
    """Read any of the three kinds.

    Raises:
        CheckpointError: missing, damaged (by its manifest's sha256, or by its own checksums), or not a
            checkpoint at all.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    digest = checked_sha256(path, manifest_path(path))
    if path.suffix == ".safetensors":
        return _from_metadata(path, digest, *read_safetensors(path))
    content = read_pt(path, check_crc=not manifest_path(path).exists())
    if content.get("format") == FORMAT:
        return _from_content(path, digest, content)
    weights, changes = weights_in(path, content, is_state)
    if not weights:
        raise CheckpointError(
            f"{path}: neither a checkpoint of wdm nor bare weights (a mapping of names to tensors)",
            hint="official WDM files are named like brats_unet_128_1200k.pt; opt*.pt files hold optimizers",
        )
    if is_old(path):
        changes = ("PyTorch's old format, which has no checksums", *changes)
    return Checkpoint(path, weights, sha256=digest, changes=changes)


def _from_content(path: Path, digest: str, content: Mapping[str, Any]) -> Checkpoint:
    """A training checkpoint from what its file maps names to."""
    try:
        if not (is_state(content["model"]) and is_state(content["ema"])):
            raise TypeError("model and ema must map names to tensors")
        preset = from_stored(json.loads(content["preset"]), origin=str(path))
        affine = np.asarray(content["affine"], float).reshape(4, 4).tolist()
        step, training = int(content["step"]), dict(content["training"])
    except ConfigError as error:
        raise CheckpointError(error.what, why="the preset stored in it is not valid for this version") from error
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: a checkpoint of wdm with a part missing or damaged: {error}") from error
    return Checkpoint(path, content["model"], preset, step, content["ema"], affine, training, digest)


def _from_metadata(path: Path, digest: str, weights: State, metadata: Mapping[str, str]) -> Checkpoint:
    """Exported weights; files of other makers have no preset."""
    try:
        stored = {key: json.loads(metadata[key]) for key in ("preset", "affine", "step") if key in metadata}
        preset = from_stored(stored["preset"], origin=str(path)) if "preset" in stored else None
        affine = np.asarray(stored["affine"], float).reshape(4, 4).tolist() if "affine" in stored else None
    except (ConfigError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged or of another version: {error}") from error
    weights, changes = without_prefixes(weights)
    return Checkpoint(path, weights, preset, stored.get("step"), affine=affine, sha256=digest, changes=changes)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into a network, all of them or none.

    A tensor that the network has under two names (the WavU-Net's doubled block) may stand under one. Where both
    stand and differ the second counts, as it does in the official code, which loads one after the other.

    Raises:
        CheckpointError: names are missing or extra, shapes differ or values are not finite; with counts and the
            first five names.
    """
    weights = dict(weights)
    for second, first in twin_names(network).items():
        if second in weights:
            weights[first] = weights[second]
        elif first in weights:
            weights[second] = weights[first]
    # shapes first: a few bytes can claim a tensor of any size
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    odd = [f"{n} {tuple(weights[n].shape)}≠{own[n]}" for n in own if n in weights and tuple(weights[n].shape) != own[n]]
    _refuse(
        f"{origin}: does not fit this network",
        {
            "missing": [name for name in own if name not in weights],
            "extra": [name for name in weights if name not in own],
            "of another shape": odd,
        },
        _how_to_fit(own, weights),
    )
    not_finite = [name for name in own if not torch.isfinite(weights[name]).all()]
    _refuse(f"{origin}: damaged", {"not finite": not_finite}, "download or copy it again")
    network.load_state_dict(weights)


def _how_to_fit(own: Mapping[str, object], weights: Mapping[str, object]) -> str:
    """What helps where names or shapes differ: the same names behind a word that is not known, or another network."""
    longest = max(own, key=len)
    before = next((name.removesuffix(longest) for name in weights if name.endswith(longest)), "")
    if not before:
        return "choose the preset the file was trained with (`wdm presets list`)"
    bare = f"{{name.removeprefix({before!r}): w for name, w in weights.items() if name.startswith({before!r})}}"
    return f"its names begin with {before!r}; save them without, in Python: torch.save({bare}, 'weights.pt')"


def _refuse(what: str, found: Mapping[str, list[str]], hint: str) -> None:
    """Raise if any list has names in it."""
    lists = [f"{len(names)} {kind}: {', '.join(names[:5])}" for kind, names in found.items() if names]
    if lists:
        raise CheckpointError(f"{what}; {'; '.join(lists)}", why="weights are never loaded in part", hint=hint)


def twin_names(network: nn.Module) -> dict[str, str]:
    """Second names of parameters that stand in the state_dict twice: {second: first}."""
    first: dict[int, str] = {}
    twins = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            twins[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return twins


def differing_twins(weights: Mapping[str, Tensor], preset: Preset) -> list[str]:
    """Second names whose values are not those of the first; no file of a trained model has any."""
    with torch.device("meta"):
        twins = twin_names(preset.network())
    both = [(second, first) for second, first in twins.items() if second in weights and first in weights]
    return [second for second, first in both if not torch.equal(weights[second], weights[first])]


def build_network(checkpoint: Checkpoint, preset: Preset | None = None, *, ema: bool = True) -> tuple[Network, Preset]:
    """The network of a checkpoint with its weights, in evaluation mode.

    Args:
        preset: needed for bare weights; for other files it must describe the same network.
        ema: take the averaged weights where the file has them, else the raw ones.

    Returns:
        The network, float32 on the CPU and without gradients, and the preset that describes it.

    Raises:
        ConfigError: bare weights and no preset. CheckpointError: weights or preset are of another network.
    """
    stored = checkpoint.preset
    if stored is None and preset is None:
        raise ConfigError(
            f"{checkpoint.path}: bare weights say nothing about their network",
            hint="name it with --preset, e.g. --preset ours_unet_128",
        )
    if stored is not None and preset is not None and stored.model != preset.model:
        raise CheckpointError(
            f"{checkpoint.path}: was trained as {stored.name} ({stored.model}), not as {preset.name} ({preset.model})",
            hint="leave --preset away: the checkpoint knows its own",
        )
    chosen = preset or stored
    assert chosen is not None
    with torch.device("meta"):
        network: Network = chosen.network()
    network = network.to_empty(device="cpu")
    weights = checkpoint.ema if ema and checkpoint.ema is not None else checkpoint.weights
    load_weights(network, weights, str(checkpoint.path))
    return network.eval().requires_grad_(False), chosen


def export(path: Path, checkpoint: Checkpoint, preset: Preset, *, ema: bool = True) -> None:
    """Write weights for others: `.pt` in the official format, or `.safetensors` with the preset inside.

    Args:
        path: the file; its ending chooses the format. One that exists is replaced.
        preset: the network of bare weights; other checkpoints know their own.
        ema: the averaged weights where the checkpoint has them, else the raw ones; float32 in either case.

    Raises:
        ConfigError: another ending. CheckpointError: the weights do not fit. ResourceError: it cannot be written.
    """
    network, preset = build_network(checkpoint, preset if checkpoint.preset is None else None, ema=ema)
    state = {name: tensor.detach().float().contiguous() for name, tensor in network.state_dict().items()}
    require_space(path, _tensor_bytes(state), hint="free some space, or choose another folder")
    if path.suffix == ".pt":
        with atomic_publish(path) as temporary:
            write_pt(temporary, OrderedDict(state))
    elif path.suffix == ".safetensors":
        for name in twin_names(network):  # safetensors holds every tensor once
            del state[name]
        metadata = {"format": "pt", "preset": json.dumps(preset.to_dict())}
        if checkpoint.affine is not None:
            metadata["affine"] = json.dumps(checkpoint.affine)
        if checkpoint.step is not None:
            metadata["step"] = str(checkpoint.step)
        with atomic_publish(path) as temporary:
            write_safetensors(temporary, state, metadata)
    else:
        raise ConfigError(f"{path}: unknown format", hint="end the name in .pt (official format) or .safetensors")
