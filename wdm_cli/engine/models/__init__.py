"""The networks that can be trained: a settings class each, and what it builds.

MODELS is the registry: configuration chooses among its classes by their `kind`. Settings do not
import torch, so that listing presets takes no time; `build()` does.
"""

from wdm_cli.engine.models.settings import UNet, WavUNet

MODELS = (UNet, WavUNet)

__all__ = ["MODELS", "UNet", "WavUNet"]
