"""MODEL_CARD.md of a run: what the model is, what it learned from, what it is for, what is not known of it."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import printable, read_text, write_text
from wdm_cli.engine.metrics.report import read_report
from wdm_cli.engine.report import methods
from wdm_cli.engine.report.story import Run, read_run

NAME, MEMORIZATION = "MODEL_CARD.md", "memorization.json"
MARK = "<!-- written by wdm, which writes it anew while this line matches the text above: "
TEXT = """\
# {name}

{description}

{methods}

## Data

{data}

## Training

{training}

## Intended use

Research on methods: augmentation studies, sharing where real data cannot be shared, teaching, tests of software.
{not_clinical} The model knows nothing but its training volumes: their scanners, patients
and pathologies, and their gaps. Nobody has tested whether its volumes are anatomically or diagnostically right.

## Memorisation

{memorization}

## Licence

The weights are under the licence that whoever trained them gives, within the terms of the data. Write it here.

## Use

```sh
wdm sample -n 100 --out samples/ --run {run}
wdm report {run} samples/
```
"""


def write_card(folder: Path) -> bool:
    """Write RUN/MODEL_CARD.md from what the run folder holds.

    Returns:
        False if somebody has changed the card: it is theirs then, and left as it is.
    """
    path = folder / NAME
    try:
        if path.exists() and not _is_ours(read_text(path, "replace")):
            return False
    except OSError:  # a folder of that name, or not ours to read
        return False
    text = printable(card(read_run(folder)))
    write_text(path, f"{text}\n{MARK}{_digest(text)} -->\n")
    return True


def card(run: Run) -> str:
    """The card's text."""
    preset, about = run.preset, run.about
    data = about.get("data") or {}
    return TEXT.format(
        name=preset.name,
        description=preset.description or "A wavelet diffusion model of 3D medical volumes.",
        methods=methods.of_training(preset, run.step, data.get("cases"), (about.get("versions") or {}).get("wdm", "?")),
        data=_lines(
            ("layout", preset.to_dict()["data"]["kind"]),
            ("folder", preset.data.dir or "not recorded"),
            ("volumes", f"{data.get('cases', '?')}, names sha256 {data.get('names_sha256', '?')}"),
            ("intensities", _intensities(run)),
        ),
        training=_lines(
            ("steps", f"{run.step:,} of {preset.train.steps:,}"),
            ("last loss", _last_loss(run)),
            ("device", f"{about.get('device', '?')}, {about.get('processes', 1)} process(es)"),
            ("command", f"`{shlex.join(_argv(about))}`"),
            ("versions", ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items())),
            ("preset", f"sha256 {about.get('preset_sha256', '?')} (preset.toml beside this file)"),
        ),
        not_clinical=methods.NOT_CLINICAL.split(". ", 1)[1].replace("For research; not", "Not"),
        memorization=_memorization(run.folder, shlex.quote(str(run.folder))),
        run=shlex.quote(str(run.folder)),
    )


def _memorization(folder: Path, name: str) -> str:
    """What was measured of copies of training volumes."""
    path = folder / MEMORIZATION
    if not path.is_file():
        return (
            f"Not measured yet. `wdm report {name} samples/` looks for the nearest training volume of every sample and "
            "writes the result here. Until then assume that samples may be copies of patients."
        )
    try:
        report = read_report(path)
        made, trained, step = report.protocol["fake"], report.protocol["real"], report.protocol["training_step"]
        compared = (
            f"{made['n']} samples of training step {step} (files sha256 {made['files_sha256'][:16]}) with "
            f"{trained['n']} training volumes (sha256 {trained['files_sha256'][:16]})"
        )
    except (DataError, KeyError, TypeError):  # the card must not fail for it
        return f"{MEMORIZATION} beside this file cannot be read as a result of `wdm report`."
    lines = [(score.name, f"{score.value:.4g} ({score.direction})") for score in report.scores]
    return _lines(("compared", compared), *lines) + "\n\n" + "\n".join(report.remarks[-1:])


def _is_ours(text: str) -> bool:
    """Whether a card is as wdm wrote it."""
    body, mark, digest = text.rpartition(f"\n{MARK}")
    return bool(mark) and digest.strip() == f"{_digest(body)} -->"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(*pairs: tuple[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in pairs)


def _argv(about: dict[str, Any]) -> list[str]:
    argv = [str(part) for part in about.get("argv") or ["wdm", "train"]]
    return [Path(argv[0]).name, *argv[1:]]


def _last_loss(run: Run) -> str:
    losses = run.metrics["loss"]
    return f"{losses[-1]:.4g}, mean over {run.preset.train.log_every} steps" if len(losses) else "none logged yet"


def _intensities(run: Run) -> str:
    data = run.preset.data
    if data.intensity == "fixed-window":
        return "{:g} … {:g} HU to [−1, 1]".format(*data.window)
    return "quantiles clipped, each volume scaled to [−1, 1]"
