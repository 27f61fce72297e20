"""What is a label map or mask and no image: told by names, and by content where a file is read.

By name: words of the published layouts (nnU-Net, Decathlon, KiTS, TotalSegmentator, BIDS, BraTS, LiTS, FreeSurfer,
…), as whole words of the file's name or of a folder below the data set's own. By content: two values or a handful of
whole numbers only, or more that stand in patches of one value each. Who synthesises label maps takes them
(`data.label_maps=take`).
"""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from wdm_cli.engine.data.formats import word_set

if TYPE_CHECKING:
    from wdm_cli.engine.data.volume import Array

BY_NAME = "label map or mask by its name"
PHASE = "phase, real, imaginary or field map by its name"
TAKE = "data.label_maps=take"
STRONG = word_set(
    """
    seg segs segm segms segmentation segmentations label labels labelmap labelmaps mask masks msk dseg probseg fseg
    pveseg aseg aparc wmparc ribbon parc parcellation parcellations parcels groundtruth labelstr labelsts labelsval
    autoseg
    """
)
WEAK = word_set(
    """
    lesion lesions lesionmask tumormask roi rois gt gts annot annotation annotations contour contours delineation
    delineations truth wmh consensus pve mixeltype
    """
)
"""Words that say so at the end of a name only: elsewhere they tell what a scan shows."""
IMAGES = word_set(
    """
    t1 t2 t1w t2w t1n t1c t1ce t1gd t2f t2star pd pdw flair bold dwi adc swi ct cta cect mr mri pet suv image images
    img imgs imaging imagestr imagests volume volumes scan scans orig brain masked stripped skullstripped bet mprage
    epi asl angio unit1 nu norm
    """
)
"""Last words that name what a scanner measures: `labelled_T1w` is an image, `T1w_label` is none."""
COLLECTIONS = word_set("dataset datasets data challenge study cases patients collection archive")
NEGATIONS = word_set(
    """
    no non not without un with pre
    """
)
NO_MAGNITUDE = re.compile(r"part-(phase|real|imag)(_|$)|_(phasediff|phase[12]|fieldmap|B0map|TB1map|RB1map)$")
"""Of BIDS: what a scanner gives beside magnitudes."""
TISSUE = re.compile(r"(?:[rw]|mw)?(?:c[1-6]|p[1-3])(?P<scan>.+)")
"""SPM and CAT12 put this before a scan's name for the share of each tissue."""
SEAM = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])|(?<=[0-9])(?=[A-Z][a-z])")

MOST_LABELS = 500
FEW_LABELS = 4  # no image has so few grey levels; tissue classes of thin cortex are no patches
LARGEST = 2**16
PATCHED = (
    0.7  # share of equal neighbours; real scans stay below 0.2, and below 0.6 with 64 grey levels or doubled voxels
)


def by_name(path: Path, root: Path) -> str:
    """BY_NAME if the words of a file's name, or of a folder between it and `root`, say label map or mask; PHASE for
    phase and field maps of BIDS; else nothing.

    What lies above `root` is not looked at: the user's own choice of a folder says that its files are wanted.
    """
    *folders, name = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    if any(_folder_says_labels(folder) for folder in folders):
        return BY_NAME
    text = re.sub(r"\.(nii|nii\.gz|mgz|mgh|hdr|img|mha|mhd|nrrd|nhdr|npy|h5)$", "", name, flags=re.IGNORECASE)
    tissue = TISSUE.fullmatch(name)
    if tissue and path.with_name(tissue["scan"]).exists():
        return BY_NAME
    if NO_MAGNITUDE.search(text):
        return PHASE
    return BY_NAME if _says_labels(words(text), folder=False) else ""


@functools.cache
def _folder_says_labels(name: str) -> bool:
    """Asked once for all files of a folder."""
    return _says_labels(words(name), folder=True)


def words(name: str) -> list[str]:
    """The words of a name in lower case: split at all but letters and digits, and where camel case begins one."""
    return [word.lower() for word in SEAM.split(name) if word]


def _says_labels(found: list[str], *, folder: bool) -> bool:
    joined = " ".join(found).replace("ground truth", "groundtruth").split()
    while joined and joined[-1].isdecimal():  # numbers of cases and channels
        joined.pop()
    if not joined or _bare(joined[-1], IMAGES):
        return False
    if folder and any(_bare(word, IMAGES) or _bare(word, COLLECTIONS) for word in joined):
        return False  # images_and_labels, MSLesSeg_Dataset
    told = [i for i, word in enumerate(joined) if _bare(word, STRONG) and not (i and joined[i - 1] in NEGATIONS)]
    last = len(joined) - 1
    return bool(told) or (_bare(joined[last], WEAK) and not (last and joined[last - 1] in NEGATIONS))


def _bare(word: str, known: frozenset[str]) -> bool:
    """Whether a word is known, with or without a number at its end (label0001)."""
    return word in known or word.rstrip("0123456789") in known


def by_content(array: Array) -> str:
    """What shows that an array holds labels and no image, or nothing.

    Up to FEW_LABELS values, whole or scaled, make a mask or label map. Of more whole numbers most neighbours are equal
    along every axis, background not counted; noise alone prevents that in images, also where 8 bits, a window or
    missing planes make them coarse.
    """
    import numpy as np

    values: set[float] = set()
    for part in array:
        values.update(np.unique(part).tolist())
        if len(values) > FEW_LABELS:
            break
    if len(values) == 2:
        return "holds only two values, as a mask does"
    if 2 < len(values) <= FEW_LABELS:
        return f"holds {len(values)} values only, as a label map does"
    low, high = float(array.min()), float(array.max())
    if not (low.is_integer() and high - low < LARGEST):
        return ""
    counts = np.zeros(int(high - low) + 1, np.int64)
    for part in array:  # slice by slice: most images are found out by the first
        steps = part - np.float32(low)
        whole = steps.astype(np.int64)
        if not np.array_equal(whole, steps):
            return ""
        counts += np.bincount(whole.ravel(), minlength=len(counts))
        if (distinct := int(np.count_nonzero(counts))) > MOST_LABELS:
            return ""
    if _patched(array, low + float(counts.argmax())) < PATCHED:
        return ""
    return f"holds {distinct} whole numbers in patches, as a label map does"


def _patched(array: Array, ground: float) -> float:
    """The smallest share, of the three axes, of equal neighbours among those that are not both background."""
    import numpy as np

    shares = []
    for axis in range(3):
        turned = np.moveaxis(array, axis, 0)
        equal = other = 0
        for here, there in itertools.pairwise(turned):
            same, shown = here == there, (here != ground) | (there != ground)
            equal += int(np.count_nonzero(same & shown))
            other += int(np.count_nonzero(shown))
        shares.append(equal / max(other, 1))
    return min(shares)
