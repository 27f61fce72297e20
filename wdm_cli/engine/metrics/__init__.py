"""Scores of generated volumes. METRICS is the registry: `wdm eval all` computes every one of them.

Listing it needs no torch; the arithmetic is imported when a metric scores.
"""

from wdm_cli.engine.metrics.fid import FID
from wdm_cli.engine.metrics.histogram import Histogram
from wdm_cli.engine.metrics.kid import KID
from wdm_cli.engine.metrics.mmd import MMD
from wdm_cli.engine.metrics.msssim import MSSSIM
from wdm_cli.engine.metrics.prdc import PRDC
from wdm_cli.engine.metrics.spectrum import Spectrum

METRICS = (FID, KID, MMD, PRDC, MSSSIM, Histogram, Spectrum)

__all__ = ["FID", "KID", "METRICS", "MMD", "MSSSIM", "PRDC", "Histogram", "Spectrum"]
