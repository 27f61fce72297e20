"""One HTML file that tells the story of a run: what made the volumes, how they look, how they score, what to doubt.

`story` reads the folders, `compare` looks at voxels (with `look` for pictures and counts), `origin` tells where they
come from (with `methods` for words), `viewer` packs volumes for 3D, `page` writes HTML; `build` brings them together.
"""

from wdm_cli.engine.metrics.folder import is_run
from wdm_cli.engine.report.build import build
from wdm_cli.engine.report.draft import Settings
from wdm_cli.engine.report.story import Run, Samples, read_run, read_samples

__all__ = ["Run", "Samples", "Settings", "build", "is_run", "read_run", "read_samples"]
