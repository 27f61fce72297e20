"""What a file is by its name alone: a volume of a format, its voxels, company that every data set has, or our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def word_set(text: str) -> frozenset[str]:
    """Words of a text."""
    return frozenset(text.split())


NIFTI = (".nii.gz", ".nii")
CONVERTED = (".mgz", ".mgh", ".hdr", ".mha", ".mhd", ".nrrd", ".nhdr")
"""What `wdm preprocess nifti` reads beside NIfTI."""
HEADERS = {
    ".img": (".hdr",), ".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",), ".raw.gz": (".nhdr",), ".gz": (".nhdr",),
    ".rec": (".par",), ".brik": (".head",), ".brik.gz": (".head",), ".dat": (".mih",), ".mat": (".hdr",),
}  # fmt: skip
"""File of voxels -> the headers that it may belong to."""


@dataclass(frozen=True)
class Format:
    """Volumes that training does not read: what they are and what to do with them.

    sure: such files are volumes and nothing else; other files of the format may be anything.
    """

    name: str
    remedy: str
    sure: bool = True

    @property
    def text(self) -> str:
        return f"{self.name}: {self.remedy}"


_CONVERT = "`wdm preprocess nifti --data-dir DIR` converts them"
_ARRAYS = "state no voxel size; if they are volumes write them as NIfTI, e.g. with nibabel"
_FORMATS: tuple[tuple[tuple[str, ...], Format], ...] = (
    ((".mgz", ".mgh"), Format("FreeSurfer volumes", _CONVERT)),
    ((".hdr",), Format("Analyze or NIfTI pairs (.hdr, .img)", _CONVERT)),
    ((".img",), Format("Analyze voxels (.img) without their .hdr", "put both files into one folder")),
    ((".mha", ".mhd"), Format("MetaImage volumes", _CONVERT)),
    ((".nrrd", ".nhdr"), Format("NRRD volumes", _CONVERT)),
    ((".dcm", ".ima", ".dicom"), Format("DICOM files", "`wdm preprocess lidc` (CT) or `mr` converts them")),
    ((".mnc",), Format("MINC volumes", "convert them first, e.g. `mnc2nii scan.mnc scan.nii`")),
    ((".mif", ".mih"), Format("MRtrix volumes", "convert them first, e.g. `mrconvert scan.mif scan.nii.gz`")),
    ((".par",), Format("Philips PAR/REC volumes", "convert them first, e.g. `parrec2nii scan.PAR` (nibabel)")),
    ((".head",), Format("AFNI volumes", "convert them first, e.g. `3dAFNItoNIFTI scan+orig`")),
    ((".gipl", ".gipl.gz"), Format("GIPL volumes", "convert them first, e.g. with ITK-SNAP")),
    ((".vti",), Format("VTK volumes", "convert them first, e.g. with 3D Slicer")),
    ((".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"), Format("packed NIfTI volumes", "unpack them first, or use gzip")),
    ((".vtk",), Format("VTK files", "convert them first if they are volumes, e.g. with 3D Slicer", sure=False)),
    ((".npy", ".npz", ".h5", ".hdf5", ".mat"), Format("arrays", _ARRAYS, sure=False)),
    ((".raw", ".zraw", ".bin"), Format("bare numbers", _ARRAYS, sure=False)),
    ((".tif", ".tiff"), Format("TIFF pictures", _ARRAYS, sure=False)),
    ((".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar"), Format("archives", "unpack them", sure=False)),
)  # fmt: skip
DICOM = next(known for suffixes, known in _FORMATS if ".dcm" in suffixes)
NIFTI_FILES = Format("NIfTI volumes", "--dataset nifti takes them")
_BY_SUFFIX = {suffix: known for suffixes, known in _FORMATS for suffix in suffixes}
_KNOWN = frozenset((*NIFTI, *HEADERS, *_BY_SUFFIX))  # of one or two parts, as .nii.gz

COMPANY = "text, tables, pictures"
_COMPANY_NAMES = frozenset({"readme", "license", "licence", "changes", "changelog", "citation", "authors", "notes"})
_COMPANY_SUFFIXES = word_set(
    """
    .json .jsonl .tsv .csv .txt .md .rst .pdf .xml .html .htm .xls .xlsx .doc .docx .yaml .yml .toml .log .cff .bib
    .bval .bvec .bvals .bvecs .png .jpg .jpeg .gif .svg .py .sh .ipynb .sha256 .md5
    """
)
_OWN = word_set(
    """
    manifest.jsonl run.json split.json contact_sheet.png samples.csv preview.png report.html eval.json
    memorization.json fingerprint.json progress.png metrics.csv preset.toml model_card.md
    """
)


def suffix_of(name: str) -> str:
    """The longest known ending of a name in lower case, else its last suffix."""
    lower = name.lower()
    for count in (2, 1):
        stem, *parts = lower.rsplit(".", count)
        if stem and (end := f".{'.'.join(parts)}") in _KNOWN:
            return end
    return Path(lower).suffix


def format_of(name: str) -> Format | None:
    """The format of volumes that a name tells, or may tell."""
    suffix = suffix_of(name)
    return NIFTI_FILES if suffix in NIFTI else _BY_SUFFIX.get(suffix)


def is_company(name: str) -> bool:
    """Whether a file is what accompanies the volumes of any data set: notes, tables, sidecars, pictures."""
    path = Path(name.lower())
    return path.suffix in _COMPANY_SUFFIXES or path.stem in _COMPANY_NAMES


def is_own(path: Path) -> bool:
    """Whether wdm writes files of this name beside volumes."""
    name = path.name.lower()
    return name in _OWN or (path.parent.name == "previews" and name.endswith(".png"))


def has_header(name: str, beside: set[str]) -> bool:
    """Whether a file holds the voxels of a header that lies beside it. beside: names in lower case."""
    suffix, lower = suffix_of(name), name.lower()
    return any(f"{lower.removesuffix(suffix)}{header}" in beside for header in HEADERS.get(suffix, ()))
