"""What to type for files that lie in a folder but are not read from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wdm_cli.engine.data.formats import DICOM, Format

LOOKED_AT = 20
COMMANDS = {"CT": "wdm preprocess lidc --dicom-dir {}", "MR": "wdm preprocess mr --dicom-dir {}"}


def remedies(foreign: Sequence[tuple[Path, Format]], root: Path) -> list[tuple[str, int]]:
    """A sentence for each remedy: what the files are, an example, what to type; and their number, largest first."""
    found: dict[str, list[tuple[Path, Format]]] = {}
    for path, known in foreign:
        found.setdefault(known.remedy, []).append((path, known))
    told = []
    for remedy, files in sorted(found.items(), key=lambda item: -len(item[1])):
        paths = [path for path, _ in files]
        names = ", ".join(sorted({known.name for _, known in files}))
        example = paths[0].relative_to(root) if paths[0].is_relative_to(root) else paths[0]
        text = dicom_remedy(paths, root) if files[0][1] == DICOM else remedy.replace("DIR", str(root))
        told.append((f"{names} (e.g. {example}): {text}", len(files)))
    return told


def dicom_remedy(paths: Sequence[Path], root: Path) -> str:
    """The command for DICOM files by their modality, read from a few of them."""
    from wdm_cli.engine.dicom.headers import Slice, read_header

    step = max(len(paths) // LOOKED_AT, 1)
    headers = [read_header(path) for path in paths[::step][:LOOKED_AT]]
    seen = sorted({header.modality for header in headers if isinstance(header, Slice)})
    fitting = [modality for modality in seen if modality in COMMANDS] or ([] if seen else list(COMMANDS))
    if not fitting:
        return f"they are {', '.join(seen)}; wdm reads CT and MR only"
    told = " (CT) or ".join(f"`{COMMANDS[modality].format(root)}`" for modality in fitting)
    return f"convert them: {told}" + (" (MR)" if len(fitting) > 1 else "")
