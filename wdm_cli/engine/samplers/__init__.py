"""Samplers: how noise becomes coeffs with a denoiser.

SAMPLERS is the registry; `sampler.py` has the contract.
"""

from wdm_cli.engine.samplers.ddim import DDIM
from wdm_cli.engine.samplers.ddpm import DDPM
from wdm_cli.engine.samplers.dpmpp import DPMSolverPP
from wdm_cli.engine.samplers.sampler import Sampler

SAMPLERS = (DDPM, DDIM, DPMSolverPP)

__all__ = ["DDIM", "DDPM", "SAMPLERS", "DPMSolverPP", "Sampler"]
