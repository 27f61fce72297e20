"""What the numbers of an image measure, and what the scanner's people called it: read off one header.

CT is learned from as HU, MR as magnitude. Scanners put other things under the same modality and class: iodine maps,
perfusion times, phase, field maps. Each says so in a tag of its own, and often in that tag only.
"""

from __future__ import annotations

import re
from typing import Any

LUT = "values go through a ModalityLUTSequence, which is not read"
HU_UNITS = {"HU", "[HNSF'U]", "HNSF'U", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS"}
NO_UNITS = {"", "US", "1", "UNSPECIFIED", "NORMALIZED", "NO UNITS", "NONE"}
NO_MAGNITUDE_UNITS = {"RAD", "RADIANS", "MRAD", "MILLIRADIALS", "DEG", "HZ", "PPM", "CM/S", "MM/S"}
NOT_HU = re.compile(
    r"\b(IODINE(?! REMOVED)|MAT (SPECIFIC|FRACTIONAL|MODIFIED|VALUE BASED)|ELECTRON DENSITY"
    r"|EFF(ECTIVE)? (ATOMIC NUM|Z)|Z EFF(ECTIVE)?|MATERIAL DENSITY|URIC ACID|CALCIUM DENSITY"
    r"|CBF|CBV|PBV|MTT|TTP|TMAX|TTD|PERMEABILITY|BLOOD (FLOW|VOLUME)|TIME TO PEAK|TRANSIT TIME|SUBTRACT(ION|ED)?|DSA)\b"
)
"""Values of ImageType of CT that are maps or differences. Virtual monoenergetic, virtual non-contrast and
iteratively reconstructed images are in HU and not among them."""
NOT_MAGNITUDE = re.compile(
    r"P|R|I|(P|R|I) [A-Z]+|PHASE( .*)?|PHA|REAL|IMAG(INARY)?|VELOCITY( MAP)?|(B0|B1|FIELD|FREQ(UENCY)?)( |)MAP"
)
VENDOR_COMPONENTS = (
    (0x0043, "GEMS_PARM_01", 0x2F),  # GE: 0 magnitude, 1 phase, 2 real, 3 imaginary
    (0x2005, "Philips MR Imaging DD 001", 0x11),  # Philips: M, P, R, I, B0, …
    (0x0051, "SIEMENS MR HEADER", 0x16),  # Siemens: ImageType once more, M/ND/NORM
    (0x0021, "SIEMENS MR SDI 02", 0x75),  # Siemens XA: ORIGINAL\PRIMARY\M\…
)
BLOCKS = range(0x10, 0x18)  # where in a group creators put their tags
PRIVATE_TAGS = [
    *((group << 16) + block for group, _, _ in VENDOR_COMPONENTS for block in BLOCKS),
    *((group << 16) + (block << 8) + element for group, _, element in VENDOR_COMPONENTS for block in BLOCKS),
]
GE_COMPONENTS = {"0": "M", "1": "PHASE", "2": "REAL", "3": "IMAGINARY"}

Text = tuple[str, ...]


def not_hu(header: Any, image_type: Text) -> str:
    """What a CT image's numbers are where its header says that they are no HU, else nothing."""
    if header.get("ModalityLUTSequence"):
        return LUT
    rescale = _word(header.get("RescaleType"))
    if rescale not in HU_UNITS | NO_UNITS:
        return f"RescaleType is {rescale}, not HU"
    unit = _word(header.get("Units"))
    if unit not in HU_UNITS | NO_UNITS:
        return f"Units is {unit}, not HU"
    for part in image_type[2:]:
        if NOT_HU.search(re.sub(r"[^A-Z0-9]+", " ", part)):
            return f"ImageType says {_word(part)}, which is no HU"
    mapped = _mapped_units(header)
    if mapped and rescale not in HU_UNITS and not mapped & (HU_UNITS | NO_UNITS):
        return f"RealWorldValueMapping is in {sorted(mapped)[0]}, not HU"
    return ""


def not_magnitude(header: Any, image_type: Text) -> str:
    """What an MR image shows where its header says that it is no magnitude image, else nothing."""
    if header.get("ModalityLUTSequence"):
        return LUT
    if any(NOT_MAGNITUDE.fullmatch(re.sub(r"[^A-Z0-9]+", " ", part)) for part in image_type[2:]):
        return "ImageType"
    if NOT_MAGNITUDE.fullmatch(_word(header.get("ComplexImageComponent"))):
        return "ComplexImageComponent"
    for group, creator, element in VENDOR_COMPONENTS:
        if any(NOT_MAGNITUDE.fullmatch(part) for part in _private(header, group, creator, element)):
            return f"({group:04x},xx{element:02x})"
    mapped = _mapped_units(header)
    if mapped and mapped <= NO_MAGNITUDE_UNITS:
        return "RealWorldValueMapping"
    return ""


def _private(header: Any, group: int, creator: str, element: int) -> list[str]:
    """Parts of a private tag's value, wherever its creator's block lies; of a lost creator, where it usually lies."""
    creators = {block: _word(header.get((group, block))) for block in BLOCKS if (group, block) in header}
    block = next((block for block, name in creators.items() if name == creator.upper()), None)
    if creators and block is None:
        return []
    found = header.get((group, ((block or BLOCKS[0]) << 8) + element))
    value = getattr(found, "value", None)
    if value is None:
        return []
    if isinstance(value, bytes):  # of implicit files and files with lost value representations: text, or a number
        number = len(value) == 2 and value[1] == 0 and value[0] < 4
        value = str(value[0]) if number else value.decode("ascii", "replace")
    texts = [value] if isinstance(value, (str, int, float)) else list(value)
    parts = [_word(part) for text in texts for part in re.split(r"[/\\]", str(text).replace("\0", ""))]
    if creator == "GEMS_PARM_01":
        return [GE_COMPONENTS.get(parts[0], "")]
    return parts[2:] if parts[:1] == ["ORIGINAL"] or parts[:1] == ["DERIVED"] else parts


def _mapped_units(header: Any) -> set[str]:
    """Units of the real world values of an image, as written."""
    units = set()
    for mapping in header.get("RealWorldValueMappingSequence") or ():
        for code in mapping.get("MeasurementUnitsCodeSequence") or ():
            units.add(_word(code.get("CodeValue")))
    return units


def _word(value: Any) -> str:
    """A value in capitals, fit for a message: people and patients are not written in these tags, but files lie."""
    text = "" if value is None else str(getattr(value, "value", value))
    return re.sub(r"[^A-Z0-9_ .,/'^*%\[\]-]", "", text.upper()).strip()[:32]


# What series are called is free text, into which people type names and dates. Only words that protocols are made of
# get out of it: a name cannot, whatever is typed.
TERM = re.compile(
    r"(?:"
    r"aahead|aahscout|abdomen|ace|acq|acquisition|adc|adni|arch|art|arterial|asl|ax|axial|axl|b0|"
    r"balanced|ball|bffe|bilateral|blade|body|bold|bone|br10|brain|bravo|breast|brst|calc|cardiac|ch|"
    r"chest|cine|ciss|cont|contrast|cor|coronal|ct|cta|ctac|cube|cva|dark|delay|delayed|derived|diff|"
    r"diffusion|dixon|dti|dual|dwi|dyn|dynamic|ecg|echo|ed|efgre|enhanced|ep|epi|exam|exp|expiration|"
    r"fa|fast|fat|fatsat|ffe|fgre|field|fiesta|filter|fl|flair|flash|fluid|fme|fov|fs|fsat|fse|"
    r"fspgr|func|gad|gated|gd|ge|gradient|grappa|gre|haste|head|heart|high|hip|hires|hr|hrct|in|"
    r"insp|inspiration|ir|iso|isotropic|kidney|knee|lateral|lava|left|liver|loc|localiser|localizer|"
    r"long|loop|low|lt|lumbar|lung|lungs|map|mapping|med|mediastinum|medic|mm|mono|motion|mp|mp2rage|"
    r"mpgr|mpr|mprage|mr|mra|mrcp|nat|native|neck|nerve|no|non|noncontrast|obl|oblique|opp|out|"
    r"pancreas|pc|pcasl|pd|pdw|pelvis|perf|perfusion|phase|pitch|plane|planning|plus|portal|post|pre|"
    r"prone|propeller|prostate|qsm|quick|rage|ram|range|recon|reformat|rep|repeat|res|resolve|rest|"
    r"right|rot|routine|rt|run|sag|sagittal|scan|scout|se|sense|sequence|series|short|shoulder|sinus|"
    r"slab|slice|soft|space|spair|spgr|spin|spine|spir|spiral|stack|standard|star|std|stir|sub|supine|"
    r"survey|swan|swi|t|te|tfe|thick|thin|thoracic|thorax|ti|time|tir|tirm|tissue|tof|tr|tra|"
    r"tracking|trauma|trigger|triple|true|trufi|tse|turbo|ute|vasc|vascular|vein|venous|vibe|view|"
    r"vista|vol|volume|w|water|weighted|whole|wip|with|without|wo|xl|xr"
    r"|[a-z]?[0-9]{1,4}[dwxsf]?)+"
)
MOST_LETTERS = 24
SCOUT = re.compile(
    r"(?<![a-z])(loc|locali[sz]er|aa?h?e?a?d?_?scout|scout|survey|3[ _-]?pl(ane)?s?|3[ _-]?axis)(?![a-z])",
    re.IGNORECASE,
)


def description(*texts: str) -> str:
    """The first text that has words of protocols in it, as `t1_mprage_sag`: those words only, at most 24 letters."""
    for text in texts:
        kept: list[str] = []
        for word in re.split(r"[^a-z0-9]+", text.lower().replace("w/o", "without")):
            if _is_term(word) and len("_".join([*kept, word])) <= MOST_LETTERS:
                kept.append(word)
        if re.search(r"(\d_?){5}", "_".join(kept)):  # a date typed in pieces
            kept = [word for word in kept if not word.isdigit()]
        if not all(re.fullmatch(r"\d*(mm)?", word) for word in kept):
            return "_".join(kept)
    return ""


def _is_term(word: str) -> bool:
    return len(word) <= MOST_LETTERS and not re.search(r"\d{5}|^\d{4}", word) and bool(TERM.fullmatch(word))


def called_scout(*texts: str) -> bool:
    """Whether a series is called a localizer."""
    return any(SCOUT.search(text) for text in texts)
