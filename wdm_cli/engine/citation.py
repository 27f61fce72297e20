"""How to cite the method."""

BIBTEX = """\
@inproceedings{friedrich2024wdm,
  title     = {{WDM}: {3D} Wavelet Diffusion Models for High-Resolution Medical Image Synthesis},
  author    = {Friedrich, Paul and Wolleb, Julia and Bieder, Florentin and Durrer, Alicia and Cattin, Philippe C.},
  booktitle = {MICCAI Workshop on Deep Generative Models},
  pages     = {11--21},
  year      = {2024}
}"""
