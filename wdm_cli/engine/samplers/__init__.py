"""Samplers: how noise becomes coeffs with a denoiser.

A sampler is a settings class with `kind`, `steps` and

    run(denoise, noise, schedule, clip, draw) -> Iterator[Tensor]

denoise: the contract of `diffusion.py`. noise: x_T [B, 8, d, h, w]. schedule: the full chain; the
sampler respaces it. clip(coeffs): clamps in image space. draw(like): fresh noise, one generator a
sample. It yields x_t after every step; the last one is the clean coeffs. No network, no file and no
progress bar inside. SAMPLERS is the registry.
"""

from wdm_cli.engine.samplers.ddpm import DDPM

SAMPLERS = (DDPM,)

__all__ = ["DDPM", "SAMPLERS"]
