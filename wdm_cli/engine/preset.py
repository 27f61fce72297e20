"""A preset: every setting of a model, from data to sampler, as one frozen object. No torch.

Each table of a preset is one dataclass; where several kinds exist, the table's `kind` names one of
the registry. Fields are declared once, in the class that uses them; pydantic checks types, each
class's `__post_init__` checks ranges, and `Preset` checks what concerns two tables.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from wdm_cli.engine.data import DATASETS
from wdm_cli.engine.data.brats import Brats
from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.errors import ConfigError, FieldError, require
from wdm_cli.engine.models import MODELS, UNet
from wdm_cli.engine.models.settings import NetworkSettings
from wdm_cli.engine.samplers import DDPM, SAMPLERS, Sampler
from wdm_cli.engine.spaces import SPACES, Space, Wavelet

if TYPE_CHECKING:
    from wdm_cli.engine.models.blocks import Network


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The forward process: how a volume is drowned in noise, step by step.

    schedule: `linear` betas (the paper's) or the `cosine` curve, which keeps more of the volume through the middle.
    steps: noise levels, 2 to 100,000; a sampler may use fewer of them.
    beta_start: the first and smallest variance of the linear schedule, above 0; `cosine` takes none.
    beta_end: its last and largest variance, above beta_start and below 1; lower leaves volume in the last x_t.
    """

    schedule: Literal["linear", "cosine"] = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        require(2 <= self.steps <= 100_000, "steps", "must be at least 2 and at most 100,000")
        require(0 < self.beta_start < self.beta_end < 1, "beta_end", "needs 0 < beta_start < beta_end < 1")
        if self.schedule == "cosine" and (self.beta_start, self.beta_end) != (1e-4, 0.02):
            raise FieldError("beta_start", "the cosine schedule has no betas to set; remove beta_start and beta_end")


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training loop. A step sees `batch_size` volumes, in `accumulate` equal parts.

    steps: optimizer steps in all, where training ends; a finished run goes on with a larger number.
    batch_size: volumes a step, over all processes together; more make a step steadier and slower.
    accumulate: parts that a batch is computed in; must divide batch_size. More take less memory and give the same step.
    lr: learning rate of AdamW, above 0 and below 1; there is no decay. Higher learns faster, too high diverges.
    weight_decay: of AdamW, at least 0 and below 1; each step takes lr · weight_decay of every weight.
    warmup: steps over which lr rises from 0.
    clip_norm: largest gradient norm, 0 for no limit.
    ema: decay of the averaged weights that samples are made with, at least 0 and below 1. `0.9999` averages
        some 10,000 steps, and a short run wants less.
    precision: of the network's convolutions and linear layers; `bf16` takes less memory, is faster where the device
        has it, and changes results a little. Weights and loss stay float32.
    checkpointing: recompute activations to save memory; costs time, changes no result.
    seed: of the first weights, the order of volumes, timesteps, noise and dropout; 0 to 2³¹ − 1.
    save_every: steps between checkpoints: what a crash can cost. A stopped run saves its last step anyway.
    keep: the last checkpoints to keep, at least 2.
    keep_every: steps whose checkpoint stays for good, a multiple of save_every; 0 for none.
    preview_every: steps between pictures in previews/ (two volumes of at most 50 sampling steps each).
    log_every: steps that a row of metrics.csv is the mean of.
    """

    steps: int = 1_200_000
    batch_size: int = 10
    accumulate: int = 1
    lr: float = 1e-5
    weight_decay: float = 0.0
    warmup: int = 0
    clip_norm: float = 0.0
    ema: float = 0.9999
    precision: Literal["float32", "bf16"] = "float32"
    checkpointing: bool = False
    seed: int = 0
    save_every: int = 5000
    keep: int = 3
    keep_every: int = 0
    preview_every: int = 5000
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "preview_every", "log_every"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.batch_size % self.accumulate == 0, "accumulate", f"must divide batch_size ({self.batch_size})")
        require(0 < self.lr < 1, "lr", "must be above 0 and below 1")
        require(0 <= self.weight_decay < 1, "weight_decay", "must be at least 0 and below 1")
        require(self.warmup >= 0, "warmup", "must be at least 0")
        require(self.clip_norm >= 0, "clip_norm", "must be at least 0 (0 = no limit)")
        require(0 <= self.ema < 1, "ema", "must be at least 0 and below 1")
        require(0 <= self.seed < 2**31, "seed", "must be at least 0 and below 2^31")
        require(
            self.keep_every >= 0 and self.keep_every % self.save_every == 0,
            "keep_every",
            f"must be a multiple of save_every ({self.save_every}), or 0",
        )
        require(self.keep >= 2, "keep", "must be at least 2: with one checkpoint a damaged file loses the run")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole model. See `presets/*.toml` for the ones that come with wdm."""

    name: str
    description: str = ""
    model: NetworkSettings = field(default_factory=UNet)
    space: Space = field(default_factory=Wavelet)
    diffusion: Diffusion = field(default_factory=Diffusion)
    data: Dataset = field(default_factory=Brats)
    train: Train = field(default_factory=Train)
    sample: Sampler = field(default_factory=DDPM)

    def __post_init__(self) -> None:
        try:
            self.model.check_size(self.data.shape, self.space.halvings)
        except FieldError as error:
            raise FieldError("data.image_size", str(error)) from None
        require(
            self.sample.steps <= self.diffusion.steps,
            "sample.steps",
            f"{self.sample.steps} is more than diffusion.steps ({self.diffusion.steps})",
        )

    def network(self) -> Network:
        """The network, freshly initialised."""
        return self.model.build(self.space.channels, self.space.channels)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, as they stand in a TOML or JSON file; `from_dict` is the inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @property
    def sha256(self) -> str:
        """Identity of the settings, over the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


TABLES: dict[str, tuple[type[Any], ...]] = {
    "model": MODELS,
    "space": SPACES,
    "diffusion": (Diffusion,),
    "data": DATASETS,
    "train": (Train,),
    "sample": SAMPLERS,
}
"""Every table of a preset and the classes it may be: more than one means that `kind` chooses."""


def table_class(table: str, kind: object = None) -> type[Any]:
    """The settings class of a table; without a kind the first of the registry. ConfigError if no kind is named so."""
    classes = TABLES[table]
    if kind is None:
        return classes[0]
    by_kind = {cls.kind: cls for cls in classes if hasattr(cls, "kind")}
    if not isinstance(kind, str) or kind not in by_kind:
        raise ConfigError(
            f"{table}.kind: unknown {kind!r}{did_you_mean(str(kind), by_kind)}",
            hint=f"choose one of: {', '.join(by_kind)}",
        )
    return by_kind[kind]


def from_dict(values: dict[str, Any], origin: str = "preset") -> Preset:
    """Validate plain tables into a Preset.

    Args:
        values: name, description and the tables of TABLES; missing keys take their defaults.
        origin: what to call it in errors, e.g. the file's path.

    Raises:
        ConfigError: naming every bad key by its path (`train.lr`), with the rule and the nearest name.
    """
    problems: list[str] = []
    parts: dict[str, Any] = {}
    for key, value in of_version_0_1(values).items():
        if key in ("name", "description"):
            if isinstance(value, str):
                parts[key] = value
            else:
                problems.append(f"{key}: must be text, got {value!r}")
        elif key not in TABLES:
            problems.append(f"{key}: unknown table{did_you_mean(key, [*TABLES, 'name', 'description'])}")
        elif not isinstance(value, dict):
            problems.append(f"{key}: must be a table, got {value!r}")
        else:
            parts[key] = _validate_table(key, value, problems)
    if "name" not in parts and not problems:
        problems.append("name: is missing")
    if not problems:
        try:
            return Preset(**parts)
        except FieldError as error:
            problems.append(f"{error.field}: {error}")
    raise ConfigError(f"{origin}: " + "\n  ".join(problems))


def from_stored(values: dict[str, Any], origin: str) -> Preset:
    """`from_dict` of what a run, a checkpoint or samples recorded; version 0.1 knew one factor for all axes only."""
    data = values.get("data")
    if isinstance(data, dict) and "voxel" not in data:
        values = values | {"data": data | {"voxel": "one-factor"}}
    return from_dict(values, origin)


def of_version_0_1(tables: dict[str, Any]) -> dict[str, Any]:
    """Plain tables of any version as those of today: in version 0.1 the wavelet was a key of `diffusion`."""
    diffusion = tables.get("diffusion")
    if not isinstance(diffusion, dict) or "wavelet" not in diffusion:
        return tables
    rest = {key: value for key, value in diffusion.items() if key != "wavelet"}
    space = {"kind": "wavelet", "wavelet": diffusion["wavelet"]} | (
        tables["space"] if isinstance(tables.get("space"), dict) else {}
    )
    return tables | {"diffusion": rest, "space": space}


def _validate_table(table: str, values: dict[str, Any], problems: list[str]) -> Any:
    """One table as its settings class; adds to problems and returns None if it is not valid."""
    from pydantic import TypeAdapter, ValidationError

    values = dict(values)
    try:
        cls = table_class(table, values.get("kind"))
    except ConfigError as error:
        problems.append(str(error))
        return None
    types = {f.name: f.type for f in dataclasses.fields(cls)}
    for key, value in list(values.items()):
        if key not in types:
            problem = f"unknown key{did_you_mean(key, types)}"
        elif not (problem := _odd_number(value, str(types[key]))):
            continue
        problems.append(f"{table}.{key}: {problem}")
        del values[key]
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        for item in error.errors():
            cause = item.get("ctx", {}).get("error")
            path = [str(part) for part in item["loc"][:1]]  # what follows names the members of a union
            if isinstance(cause, FieldError):
                path.append(cause.field)
            message = str(cause) if cause else f"{item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"
            problems.append(f"{'.'.join([table, *path])}: {message}")
        return None


def _odd_number(value: Any, type_name: str) -> str:
    """What pydantic lets pass as a number and we do not: true, false, infinity and NaN."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, bool) and type_name != "bool":
            return f"must not be true or false, got {value!r}"
        if isinstance(item, float) and not math.isfinite(item):
            return f"must be finite, got {value!r}"
    return ""


def did_you_mean(word: str, known: Any) -> str:
    """' (did you mean …?)' for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""
