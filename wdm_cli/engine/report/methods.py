"""Settings in words: sentences for a paper, for the report and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wdm_cli.engine.preset import Preset

NOT_CLINICAL = "Synthetic volumes. For research; not for diagnosis or any other clinical use."

NETWORKS = {"unet": "3D U-Net", "wavunet": "3D wavelet U-Net (WavU-Net)"}


def parameters(preset: Preset) -> int:
    """How many numbers the network has."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in preset.network().parameters())


def of_training(preset: Preset, step: int, cases: int | None, version: str) -> str:
    """How a model was trained."""
    train, diffusion, tables = preset.train, preset.diffusion, preset.to_dict()
    network = NETWORKS.get(tables["model"]["kind"], tables["model"]["kind"])
    count = f"{cases:,} volumes" if cases else "volumes"
    size = "×".join(map(str, preset.data.shape))
    return (
        f"A wavelet diffusion model (WDM; Friedrich et al., 2024) was trained with wdm {version} on {count} of {size} "
        f"voxels (data set layout {tables['data']['kind']}, intensities {preset.data.intensity}). "
        f"A {network} with {parameters(preset) / 1e6:.1f} million parameters predicts "
        f"{preset.space.words}; {diffusion.steps:,} diffusion steps, {diffusion.schedule} schedule. "
        f"It was trained for {step:,} steps with AdamW (learning rate {train.lr:g}, weight decay "
        f"{train.weight_decay:g}, batch size {train.batch_size}, {train.precision}); weights were averaged with decay "
        f"{train.ema:g}."
    )


def of_sampling(protocol: dict[str, Any], count: int, seeds: Sequence[int]) -> str:
    """How volumes were made."""
    if "sampler" not in protocol:
        return f"{count:,} volumes were examined; how they were made is not recorded."
    weights = "averaged (EMA) weights" if protocol.get("weights") == "ema" else "weights as trained"
    sampler = f"{protocol['sampler']} in {protocol.get('steps')} steps"
    if "grid" in protocol:
        sampler += f" on the time grid {protocol['grid']}"
    if protocol.get("eta"):
        sampler += f" with eta = {protocol['eta']}"
    if protocol.get("sde"):
        sampler += " in its stochastic form"
    return (
        f"{count:,} volumes were sampled with {sampler} from the {weights} in {protocol.get('precision', 'float32')}; "
        f"{_seeds(seeds)}."
    )


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return "seeds not recorded"
    first, last = min(seeds), max(seeds)
    if first == last:
        return f"seed {first}"
    gaps = "" if last - first + 1 == len(seeds) else f", {len(seeds)} of these {last - first + 1}"
    return f"seeds {first} to {last}{gaps}"


def of_scores(protocol: dict[str, Any]) -> str:
    """How scores were measured."""
    kinds = ", ".join(protocol.get("metrics") or {})
    real, fake, extractor = protocol.get("real"), protocol.get("fake") or {}, protocol.get("extractor")
    version = (protocol.get("versions") or {}).get("wdm", "?")
    text = f"Scores ({kinds}) were computed with wdm {version} on {fake.get('n')} generated volumes"
    if real:
        text += f" against {real.get('n')} real ones"
    if extractor:
        text += f", with features of {extractor.get('name')} (sha256 {str(extractor.get('sha256'))[:16]})"
    return f"{text}; seed {protocol.get('seed', 0)}."
