"""Scores of generated volumes. METRICS is the registry: the command line has one command for each `kind`.

Listing it needs no torch; the arithmetic is imported when a metric scores.
"""

from wdm_cli.engine.metrics.fid import FID
from wdm_cli.engine.metrics.msssim import MSSSIM

METRICS = (FID, MSSSIM)

__all__ = ["FID", "METRICS", "MSSSIM"]
