"""Checkpoints: written whole, read safely, to and from the official format.

Three kinds of file are read. A *training checkpoint* of wdm holds everything (`save`); *bare weights* are
an official `.pt` (a flat mapping of names to tensors); *exported weights* are the same names as
safetensors with the preset in the metadata. Nothing in a file can run code: `.pt` files are read with
`weights_only=True` and no fall-back.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wdm_cli import __version__
from wdm_cli.engine.errors import CheckpointError, ConfigError
from wdm_cli.engine.files import atomic_publish, sha256_file, write_json
from wdm_cli.engine.models.blocks import Network
from wdm_cli.engine.preset import Preset, from_dict

FORMAT = "wdm-checkpoint-1"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    preset: None for bare weights. ema: None where the file has one set of weights. training: the
    optimizer's state and what else the loop needs, in training checkpoints only.
    affine: 4×4 of the volumes it was trained on, None if the file does not say.
    """

    path: Path
    weights: State
    preset: Preset | None = None
    step: int | None = None
    ema: State | None = None
    affine: list[list[float]] | None = None
    training: dict[str, Any] = field(default_factory=dict)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a training checkpoint, with a manifest `path.json` that holds its sha256."""
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
    with atomic_publish(path) as temporary:
        torch.save(content, temporary)
        digest = sha256_file(temporary)
    write_json(manifest_path(path), {"sha256": digest, "bytes": path.stat().st_size, "step": checkpoint.step})


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read(path: Path) -> Checkpoint:
    """Read any of the three kinds.

    Raises:
        CheckpointError: missing, damaged (also by its manifest's sha256), or not a checkpoint at all.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    manifest = manifest_path(path)
    if manifest.exists():
        try:
            expected = json.loads(manifest.read_text())["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{manifest}: not a manifest") from error
        if sha256_file(path) != expected:
            raise CheckpointError(f"{path}: damaged, its sha256 is not the one in {manifest.name}")
    content = _read_pt(path)
    if content.get("format") == FORMAT:
        return _from_content(path, content)
    if not content or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise CheckpointError(
            f"{path}: neither a checkpoint of wdm nor bare weights (a mapping of names to tensors)",
            hint="official WDM files are named like brats_unet_128_1200k.pt; opt*.pt files hold optimizers",
        )
    return Checkpoint(path, dict(content))


def _from_content(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    try:
        return Checkpoint(
            path,
            content["model"],
            from_dict(json.loads(content["preset"]), origin=str(path)),
            content["step"],
            content["ema"],
            content["affine"],
            content["training"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: a checkpoint of wdm without its part {error}") from error
    except ConfigError as error:
        raise CheckpointError(error.what, why="the preset stored in it is not valid for this version") from error


def _read_pt(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a git-lfs pointer, not the file itself", hint="run `git lfs pull`")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a checkpoint, or cut off ({path.stat().st_size} bytes; no PyTorch zip archive)",
            hint="download or copy it again",
        )
    with zipfile.ZipFile(path) as archive:
        # torch stores tensors uncompressed; a compressed entry could swell to any size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(f"{path}: compressed entries, which no checkpoint has")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors: {str(error).splitlines()[0]}",
            why="loading it would run code from the file, which wdm never does",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not weights")
    return content


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {error}") from error
    preset = from_dict(json.loads(metadata["preset"]), origin=str(path)) if "preset" in metadata else None
    affine = json.loads(metadata["affine"]) if "affine" in metadata else None
    step = int(metadata["step"]) if "step" in metadata else None
    return Checkpoint(path, weights, preset, step, affine=affine)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into a network, all of them or none.

    A tensor that the network has under two names (the WavU-Net's doubled block) may stand under one.

    Raises:
        CheckpointError: names are missing or extra, shapes differ, or two names of one tensor disagree;
            with counts and the first five names.
    """
    weights = dict(weights)
    for name, twin in twin_names(network).items():
        if name in weights and twin in weights and not torch.equal(weights[name], weights[twin]):
            raise CheckpointError(f"{origin}: {name} and {twin} are one tensor but hold different values")
        for one, other in ((name, twin), (twin, name)):
            if one in weights:
                weights.setdefault(other, weights[one])
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    odd = [f"{n} {tuple(weights[n].shape)}≠{own[n]}" for n in own if n in weights and tuple(weights[n].shape) != own[n]]
    if missing or extra or odd:
        found = [(missing, "missing"), (extra, "extra"), (odd, "of another shape")]
        lists = [f"{len(names)} {what}: {', '.join(names[:5])}" for names, what in found if names]
        raise CheckpointError(
            f"{origin}: does not fit this network; " + "; ".join(lists),
            why="weights are never loaded in part",
            hint="choose the preset the file was trained with (`wdm presets list`)",
        )
    network.load_state_dict(weights)


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


def build_network(checkpoint: Checkpoint, preset: Preset | None = None, *, ema: bool = True) -> tuple[Network, Preset]:
    """The network of a checkpoint with its weights, in evaluation mode.

    Args:
        preset: needed for bare weights; for other files it must describe the same network.
        ema: take the averaged weights where the file has them, else the raw ones.
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
        network: Network = chosen.model.build()
    network = network.to_empty(device="cpu")
    weights = checkpoint.ema if ema and checkpoint.ema is not None else checkpoint.weights
    load_weights(network, weights, str(checkpoint.path))
    return network.eval().requires_grad_(False), chosen


def export(path: Path, checkpoint: Checkpoint, preset: Preset, *, ema: bool = True) -> None:
    """Write weights for others: `.pt` in the official format, or `.safetensors` with the preset inside."""
    network, preset = build_network(checkpoint, preset if checkpoint.preset is None else None, ema=ema)
    state = {name: tensor.detach().float().contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix == ".pt":
        with atomic_publish(path) as temporary:
            torch.save(OrderedDict(state), temporary)
    elif path.suffix == ".safetensors":
        from safetensors.torch import save_file

        for name in twin_names(network):  # safetensors holds every tensor once
            del state[name]
        metadata = {"format": "pt", "preset": json.dumps(preset.to_dict())}
        if checkpoint.affine is not None:
            metadata["affine"] = json.dumps(checkpoint.affine)
        if checkpoint.step is not None:
            metadata["step"] = str(checkpoint.step)
        with atomic_publish(path) as temporary:
            save_file(state, temporary, metadata)
    else:
        raise ConfigError(f"{path}: unknown format", hint="end the name in .pt (official format) or .safetensors")
