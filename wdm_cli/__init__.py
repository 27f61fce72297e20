"""wdm: make, and judge, synthetic 3D medical volumes with wavelet diffusion models."""

__version__ = "0.1.0"
