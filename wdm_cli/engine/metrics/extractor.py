"""Feature extractors: MedicalNet ResNets from their released files, and seeded random ones."""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from wdm_cli.engine.device import choose_device
from wdm_cli.engine.errors import CheckpointError, OutOfMemoryError, ResourceError
from wdm_cli.engine.files import sha256_file
from wdm_cli.engine.metrics.resnet import BLOCKS, ResNet, folded, random_resnet
from wdm_cli.engine.safe_load import read_pt, weights_in


class Opener(Protocol):
    """Opens the same extractor on a device; can be sent to another process."""

    def __call__(self, *, device: str) -> Extractor: ...


@dataclass(frozen=True)
class Extractor:
    """A network that turns volumes [B, 1, D, H, W] in [0, 1] into features [B, F] float32.

    name: what it is; sha256: of the weights file (or of what determines random weights).
    comparable: False if scores made with it compare with nothing published. again: how another process opens it.
    """

    name: str
    sha256: str
    network: Callable[[Tensor], Tensor]
    device: torch.device
    comparable: bool = True
    again: Opener | None = None

    @torch.inference_mode()
    def __call__(self, volumes: Tensor) -> Tensor:
        volumes = volumes.to(self.device)
        # full float32 on GPUs too: TF32 would move features by 1e-3, and with them scores and the shared cache; bf16
        # moved a small-sample FID by 4 to 15 % of the real-vs-real floor
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with exact:
            try:
                return self.network(volumes).float().cpu()
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"{self.device} has too little memory for the features of {'×'.join(map(str, volumes.shape[2:]))} "
                    "voxels",
                    hint="--device cpu has more, medicalnet_resnet10 is smaller",
                ) from error

    def describe(self) -> dict[str, object]:
        """What of it belongs into a protocol stamp."""
        return {"name": self.name, "sha256": self.sha256}


def load_extractor(weights: str | Path, *, device: str = "auto", seed: int = 0) -> Extractor:
    """An extractor from a MedicalNet file, or `random`.

    Args:
        weights: path of a file {'state_dict': {'module.…': tensor}} of depth 10, 18, 34 or 50, or "random".
        device: auto, cpu, cuda, cuda:1 …
        seed: of the random weights.

    Raises:
        ResourceError: no such file or device.
        CheckpointError: not a MedicalNet file; nothing is ever loaded in part.
    """
    target = choose_device(device)
    if str(weights) == "random":
        network = random_resnet(seed)
        name = f"random ResNet-50, seed {seed}"
        sha256 = hashlib.sha256(f"{name} kaiming torch {torch.__version__}".encode()).hexdigest()
    else:
        path = Path(weights)
        network = read_medicalnet(path)
        name, sha256 = f"MedicalNet {path.name}", sha256_file(path)
    folded(network).requires_grad_(False).to(target)
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    again = functools.partial(load_extractor, weights, seed=seed)
    return Extractor(name, sha256, network, target, str(weights) != "random", again)


def load_own_network(source: str, *, device: str = "auto") -> Extractor:
    """A user's own network; runs its code, so ask the user first.

    Args:
        source: a TorchScript file, or `module:function` where function() returns a callable that maps volumes
            [B, 1, D, H, W] in [0, 1] to features [B, F].

    Raises:
        ResourceError: no such file, module or function. CheckpointError: it is not TorchScript or not callable.
    """
    target = choose_device(device)
    path = Path(source)
    if path.is_file():
        try:
            network = torch.jit.load(path, map_location=target)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: not a TorchScript file", why=str(error).splitlines()[0], hint="torch.jit.script(net).save(…)"
            ) from error
        sha256 = sha256_file(path)
    else:
        network, file = import_network(source)
        sha256 = sha256_of_code(network, file)
    if isinstance(network, nn.Module):
        network = network.eval().to(target)
    again = functools.partial(load_own_network, source)
    return Extractor(f"own network {path.name}", sha256, network, target, False, again)


def import_network(source: str) -> tuple[Callable[[Tensor], Tensor], Path]:
    """(what function() of `module:function` returns, the module's file); modules of the current folder are found.

    Raises:
        ResourceError: no such module or function. CheckpointError: what it returns cannot be called.
    """
    module_name, colon, function = source.partition(":")
    if not colon:
        raise ResourceError(f"no extractor file {source}", hint="give a TorchScript file, or module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
        network = getattr(module, function)()
    except (ImportError, AttributeError) as error:
        raise ResourceError(
            f"--extractor {source}: {error}", hint="module.py must lie in this folder or be installed"
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(network) or module.__file__ is None:
        raise CheckpointError(f"{source}() returned {type(network).__name__}, not a callable")
    return network, Path(module.__file__)


def sha256_of_code(network: Callable[[Tensor], Tensor], file: Path) -> str:
    """Hash of a module's file and of the tensors that it made or loaded: retrained weights are another network."""
    digest = hashlib.sha256(sha256_file(file).encode())
    for name, tensor in network.state_dict().items() if isinstance(network, nn.Module) else ():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_medicalnet(path: Path) -> ResNet:
    """The network of a released MedicalNet file; depth and shortcut are read off its names.

    Raises:
        ResourceError: no such file. CheckpointError: it is damaged, or not exactly such a network.
    """
    state = read_state(path)
    depth, kind = infer_depth(state), "B" if any(".downsample." in name for name in state) else "A"
    with torch.device("meta"):
        network = ResNet(depth, kind)
    check_names(path, depth, expected=network.state_dict(), found=state)
    network.load_state_dict(state, assign=True)
    return network.float()


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a weights file, without the 'module.' prefix."""
    if not path.is_file():
        raise ResourceError(
            f"no extractor weights at {path}",
            why="FID is measured in the features of a fixed network",
            hint="wdm weights get medicalnet_resnet50, then --weights medicalnet_resnet50; or fetch the file from "
            "huggingface.co/TencentMedicalNet/MedicalNet-Resnet50; or --weights random to try things out",
        )
    state, _ = weights_in(path, read_pt(path, check_crc=True), are_tensors)
    if not state:
        raise CheckpointError(
            f"{path}: has no 'state_dict' of tensors", why="MedicalNet files are {'state_dict': {'module.…': tensor}}"
        )
    return state


def are_tensors(value: object) -> bool:
    """Whether a value from a file maps names to tensors, of whole numbers too (batch norm counts its batches)."""
    return isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values())


def infer_depth(state: Mapping[str, Tensor]) -> int:
    """ResNet depth from the number of blocks in each layer; 50 where the file says nothing."""
    counts = [
        1 + max((int(m[1]) for n in state if (m := re.match(rf"layer{i}\.(\d+)\.", n))), default=-1)
        for i in range(1, 5)
    ]
    bottleneck = any(name.endswith(".conv3.weight") for name in state)
    for depth, blocks in BLOCKS.items():
        if tuple(counts) == blocks and (depth >= 50) == bottleneck:
            return depth
    return 50


def check_names(path: Path, depth: int, *, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """CheckpointError unless a file has exactly the expected names and shapes, and finite values."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [n for n in expected if n in found and expected[n].shape != found[n].shape],
        "not finite": [n for n, v in found.items() if n in expected and not bool(torch.isfinite(v).all())],
    }
    lines = [f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in problems.items() if names]
    if lines:
        raise CheckpointError(
            f"{path}: does not fit MedicalNet ResNet-{depth}",
            why="; ".join(lines),
            hint="give a released file such as resnet_50_23dataset.pth; nothing is loaded in part",
        )
