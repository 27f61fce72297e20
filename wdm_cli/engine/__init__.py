"""The library behind the command line: it never prints, never reads argv or the environment.

Layers, downward only: train, generate, evaluate -> checkpoint, data, metrics -> models, samplers,
diffusion -> wavelet, files, errors. Errors are `WdmError` subclasses (`errors.py`).
"""
