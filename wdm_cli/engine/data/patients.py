"""Who is a patient: told by the user, by preprocessing, by names of known data sets, or guessed. No torch.

A wrong merge of two patients costs a little choice; a patient taken for two stands on both sides of a split and lets a
model be judged on anatomy that it has seen. Whatever is uncertain is therefore merged, and said.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.names import below
from wdm_cli.engine.errors import ConfigError, DataError

MANIFEST, LAYOUT, RULE = "manifest.jsonl", "names of a known data set", "general rule"
WAYS = "--patient REGEX takes the patient from the paths, --patients TABLE from a CSV or TSV file"
CODE = "guess-"  # what the manifest calls a patient who was guessed
MANY = 20  # cases a folder on average; a folder of more is a group (a site, a scanner), no patient

HEAD = r"^(?:[^/]*(?:data|image|train|test|val|task|totalseg|kits|amos|mosmed|ct-\d)[^/]*/)*"  # folders above patients
LAYOUTS = tuple(
    re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})", re.IGNORECASE)
    for pattern in (
        r"(LIDC-IDRI-\d{4})",
        r"(?:ADNI_|sub-ADNI)?(\d{3}_?S_?\d{4,5})(?!\d)",  # ADNI, exported or in BIDS
        r"(?:sub-)?(OAS[1-4]_?\d{4})(?!\d)",  # OASIS 1 to 4; then the session
        r"(sub-[A-Za-z0-9]+)",  # BIDS
        r"BraTS1[5-9]_((?:2013|CBICA|TCIA\d*|TMC)_[A-Z0-9]+)_\d+(?!\d)",  # then a scan; the years share patients
        r"(BraTS20_(?:Training|Validation)_\d{3})(?!\d)",
        r"(BraTS2021_\d{5})",
        r"(BraTS(?:-[A-Z]+){1,2}-\d{4,5})(?!\d)",  # since 2023: GLI, MET, SSA, PED, MEN-RT, …; then a time point
        r"(BraTSReg_\d{3})(?!\d)",
        r"(IXI\d{3})(?!\d)",
        r"(UPENN-GBM-\d{5})",
        r"(UCSF-PDGM-\d{3,4})(?!\d)",
        r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])",
        r"(C3[LN]-\d{5})",  # CPTAC
        r"(ProstateX-\d{4})",
        r"(Breast_MRI_\d{3})(?!\d)",
        r"(LUNG\d-\d{3})(?!\d)",  # NSCLC-Radiomics
        r"(MIDRC-RICORD-1[A-C]-\d{6}-\d{6})",
        r"(COVID-19-AR-\d+)",
        r"(volume-covid19-A-\d{4})",
        r"(coronacases_\d{3}|radiopaedia_\d+_\d+)(?!\d)",
        r"(CQ500-?CT-?\d+)",
        r"(PPMI_\d+|AIBL_\d+)(?=_)",
        r"(\d{6})(?=/[^/]*NLST)",
        rf"{HEAD}(CC\d{{4}})(?=_)",  # Calgary-Campinas
        r"CT-\d/(study_\d{4})(?!\d)",  # MosMedData
        rf"{HEAD}(\d{{7}})(?=_20\d{{3}}_\d+_\d+)",  # UK Biobank: then field, visit, number
        rf"{HEAD}(\d{{5}})(?=_\d{{7}}(?:_|/|$))",  # PI-CAI: then the study
        rf"{HEAD}(?:[^/]+/)*((?:train|valid)_\d+)(?=_[a-z]_\d)",  # CT-RATE: then scan and reconstruction
        r"(?<![^/])((?:patient|patientid|subject|participant)[_-]?\d+)",
        rf"{HEAD}((?:pat|subj?)[_-]?\d+)",  # further below it may be a part of a patient
        rf"{HEAD}((?:BRATS|la|liver|hippocampus|prostate|lung|pancreas|hepaticvessel|spleen|colon)_\d{{1,3}})(?=/|$|_00[01]\d)",
        rf"{HEAD}((?:case_\d{{5}}|amos_\d{{4}})(?!\d)|BDMAP_\d{{8}})",  # KiTS, AMOS, AbdomenAtlas
        rf"{HEAD}(s\d{{4}})(?=/|$)",  # TotalSegmentator
    )
)
"""Where names state a patient (group 1) in the data sets that wdm knows."""

CONTRASTS = (
    r"t[12]|t[12][wnfc]|t1ce|t1gd|t1ca|fl|flair|pdw?|dwi|adc|swi|mra?|mri|ct|cta|cbct|pet|fdg|suv|dti|tof|asl|bold|b\d+|"
    r"mprage|mp2rage|f?spgr|tse|space|stir|inv\d|uni|contrast|ce|gd|native|nc|arterial|venous|portal|delayed|phase|"
    r"ax|axial|cor|coronal|sag|sagittal|tra|transverse|brain|head|bet|stripped|ss|masked|reg|registered|mni|n4|norm|"
    r"normali[sz]ed|corrected|resampled|(?:pre)?processed|im|img|image|imaging|vol|volume|scan|series|anat|func|raw|orig|"
    r"rec|recon|nii|gz|\d(?:\.\d)?t|4d|f?mri|hr|iso"
)
SIDES = r"left|right|l|r|flip(?:ped)?|mirrored|aug(?:mented)?\d*"
MOMENTS = r"baseline|bl|screening|pre|post|preop|postop|followup|follow-up|fu|retest|last|first"
VISITS = (
    r"(?:ses|session|sess|visit|vis|v|tp|t|time|timepoint|months?|mo|m|weeks?|wk|w|years?|yr|y|days?|d|fu|followup|scan|"
    r"run|echo|acq|rep|repeat|series|phase|frame|channel|mpr|exam)[_-]?[a-z]?\d{1,4}"
)
DATES = r"(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d|[0-3]\d-[0-3]\d-(?:19|20)\d\d"
GROUPS = (
    r"train(?:ing)?|tr|val(?:id|idation)?|ts|test(?:ing)?|images?(?:tr|ts|val)?|data|dataset|nifti|nii|volumes|scans|cases|"
    r"hgg|lgg|ad|cn|mci|controls?|patients|subjects|healthy|normal|covid|(?:subset|fold|batch|part|group)[_-]?[a-z]?\d*|"
    r"(?:site|center|centre|hospital|cohort|scanner)[_-]?\w*|derivatives|rawdata|sourcedata"
)
NO_PATIENT = re.compile(f"(?:{CONTRASTS}|{MOMENTS}|{VISITS}|{DATES}|{GROUPS})", re.IGNORECASE)
ENDS = tuple(
    re.compile(rf"(?<=[A-Za-z0-9])(?:[_\-. ]+(?:{words})|_-[0-9a-f]{{8}})$", re.IGNORECASE)
    for words in (f"{CONTRASTS}|{SIDES}|{MOMENTS}|{VISITS}|{DATES}", f"{CONTRASTS}|{SIDES}|{MOMENTS}")
)
NUMBER = re.compile(r"(.*[A-Za-z0-9])[_\-. ]+(\d{1,4})")
UID = re.compile(r"[\d.]{20,}")
HASH = re.compile(r"(?=.*_)(.*?)_?-(?=\d*[a-f])[0-9a-f]{8}")  # what `safe_name` adds where it changed something


@dataclass(frozen=True)
class Patients:
    """Whose the cases are.

    of: case -> patient. told: how that is known, and of how many cases (or by which pattern or table). guessed: cases
    whose patient follows from the general rule alone. unused: rows of a table that name no case of the folder.
    """

    of: Mapping[str, str]
    told: Mapping[str, str | int]
    guessed: tuple[str, ...] = ()
    unused: tuple[str, ...] = field(default=(), compare=False)

    def doubt(self) -> str:
        """What a user should look at where patients were guessed, with the largest group as an example."""
        if not self.guessed:
            return ""
        groups: dict[str, list[str]] = defaultdict(list)
        for case in self.guessed:
            groups[self.of[case]].append(case)
        patient, cases = max(groups.items(), key=lambda item: (len(item[1]), item[0]))
        shown = ", ".join(cases[:3]) + ", …" * (len(cases) > 3)
        return (
            f"patients are not stated by {len(self.guessed)} of {len(self.of)} cases; guessed: {len(groups)} patients, "
            f"e.g. {patient}: {shown}. If that is wrong, {WAYS}"
        )


def recognise(text: str) -> str:
    """The patient that a name or path states as one of the known data sets does, else nothing."""
    for layout in LAYOUTS:
        if match := layout.search(text):
            return _one_spelling(match[1])
    return ""


def _one_spelling(patient: str) -> str:
    """ADNI and OASIS write one patient in two ways, in BIDS and out of it."""
    if adni := re.fullmatch(r"(\d{3})_?S_?(\d{4,5})", patient, re.IGNORECASE):
        return f"ADNI_{adni[1]}_S_{adni[2]}"
    return patient.replace("_", "") if patient.upper().startswith("OAS") else patient


def tell(inventory: Inventory, pattern: str = "", table: Path | None = None) -> Patients:
    """The patient of every case.

    By `pattern` or `table` where one is given, for all cases. Else, case by case, by what comes first: the folder's
    manifest.jsonl, the names of a known data set (in the path below the folder), the general rule (`guess`).

    Args:
        pattern: searched in the path below the folder, without .nii.gz; group 1, or the whole match, is the patient.
        table: see `read_table`.

    Raises:
        ConfigError: the pattern is none, or both are given.
        DataError: the pattern or the table leaves a case without a patient; it is named.
    """
    if pattern and table is not None:
        raise ConfigError("--patient and --patients exclude each other", why="both say who is whose, for all cases")
    paths = {case.name: below(case, inventory.root) for case in inventory.cases}
    if pattern:
        return Patients(by_pattern(paths, pattern), {"pattern": pattern})
    if table is not None:
        from wdm_cli.engine.data.patient_table import by_table

        found, unused = by_table(inventory, table)
        return Patients(found, {"table": table.name}, unused=unused)
    stated = by_manifest(inventory)
    known = {name: patient for name, path in paths.items() if name not in stated and (patient := recognise(path))}
    guessed = guess({name: path for name, path in paths.items() if name not in stated and name not in known})
    spelling: dict[str, str] = {}
    of = {name: spelling.setdefault(p.casefold(), p) for name, p in {**stated, **known, **guessed}.items()}
    unsure = tuple(name for name in paths if name in guessed or of[name].startswith(CODE))
    counts = {MANIFEST: len(stated) + len(guessed) - len(unsure), LAYOUT: len(known), RULE: len(unsure)}
    return Patients({name: of[name] for name in paths}, {way: count for way, count in counts.items() if count}, unsure)


def codes(inventory: Inventory) -> dict[str, str]:
    """Case -> patient for a manifest: as a known data set names him; of a guess a code, as folders may be named after
    people."""
    told = tell(inventory)
    return {
        name: CODE + hashlib.sha256(patient.encode(errors="surrogateescape")).hexdigest()[:12]
        if name in told.guessed and not patient.startswith(CODE)
        else patient
        for name, patient in told.of.items()
    }


def by_pattern(paths: Mapping[str, str], pattern: str) -> dict[str, str]:
    """Case -> patient by a regular expression over the paths; raises as `tell` does."""
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--patient {pattern}: is no regular expression: {error}") from error
    found = {}
    for name, path in paths.items():
        match = wanted.search(path)
        found[name] = (match[1] if wanted.groups else match[0]) or "" if match else ""
    if missing := [name for name, patient in found.items() if not patient]:
        raise DataError(
            f"--patient {pattern}: finds no patient in {len(missing)} of {len(paths)} cases, e.g. {paths[missing[0]]}",
            why="every case needs a patient",
            hint="the pattern is searched in the path below DIR; for names without a rule: --patients TABLE",
        )
    return found


def by_manifest(inventory: Inventory) -> dict[str, str]:
    """Case -> patient as `wdm preprocess` recorded it, by file; empty where there is no manifest.

    A patient of the same name as the case was not known to earlier versions: it is told by its name again.
    """
    path = inventory.root / MANIFEST
    found: dict[str, str] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that was being written when the machine went down
        if (
            isinstance(entry, dict)
            and entry.get("output")
            and entry.get("patient") not in (None, "", entry.get("case"))
        ):
            found[str(PurePath(entry["output"]))] = str(entry["patient"])
    stated = ((case.name, found.get(str(case.path.relative_to(inventory.root)))) for case in inventory.cases)
    return {name: patient for name, patient in stated if patient}


def guess(paths: Mapping[str, str]) -> dict[str, str]:
    """The general rule, for names of no known data set.

    A patient has a folder: the first one below which the files differ and whose name is no group, contrast, visit
    or date. Where there are no such folders, or files of the same names lie in fewer folders than there are names,
    the file's name is the patient, without what it says at its end: contrasts, sides, visits and time points, dates,
    a letter behind its number, a number wherever as many different beginnings as numbers are there (channels).
    """
    names = _without_words({case: PurePath(path).name for case, path in paths.items()})
    names = _without_numbers(_without_letters(names))
    folders = [PurePath(path).parts[:-1] for path in paths.values()]
    shared = 0
    while folders and all(len(parts) > shared for parts in folders) and len({parts[shared] for parts in folders}) == 1:
        shared += 1
    homes = {
        case: next((part for part in parts[shared:] if not NO_PATIENT.fullmatch(part)), "")
        for case, parts in zip(paths, folders, strict=True)
    }
    return {case: homes[case] or names[case] for case in paths} if _folders_tell(homes, names) else names


def _folders_tell(homes: Mapping[str, str], names: Mapping[str, str]) -> bool:
    different = set(homes.values()) - {""}
    places: dict[str, set[str]] = defaultdict(set)
    for case, name in names.items():
        places[name].add(homes[case])
    repeated = any(len(there) > 1 for there in places.values())
    return (
        len(different) >= 2 and len(homes) <= MANY * len(different) and not (repeated and len(places) > len(different))
    )


def _without_words(names: Mapping[str, str]) -> dict[str, str]:
    """Names without contrasts, visits and dates at their ends; visits and dates stay where nothing else is a name."""
    for end in ENDS:
        found = {case: _strip(name, end) for case, name in names.items()}
        if len(set(found.values())) > 1 or any(re.search(r"\d", name) for name in found.values()):
            return found
    return dict(names)


def _strip(name: str, end: re.Pattern[str]) -> str:
    if hashed := HASH.fullmatch(name):
        name = hashed[1]
    while not UID.fullmatch(name) and (match := end.search(name)):
        name = name[: match.start()]
    return name


def _without_letters(names: Mapping[str, str]) -> dict[str, str]:
    """Names without one letter behind their number (01a, 01b; knee_3L) where that leaves several scans of one name."""
    found = {case: re.sub(r"(?<=\d)[A-Za-z]$", "", name) for case, name in names.items()}
    return found if len(set(found.values())) < len(set(names.values())) else dict(names)


def _without_numbers(names: Mapping[str, str]) -> dict[str, str]:
    """Names without a number at their end that tells scans of one patient apart, not patients."""
    ends = {case: NUMBER.fullmatch(name) for case, name in names.items() if not UID.fullmatch(name)}
    beginnings = {match[1] for match in ends.values() if match}
    numbers = {int(match[2]) for match in ends.values() if match}
    if len(beginnings) < max(2, len(numbers)):
        return dict(names)
    return {case: _strip(match[1], ENDS[0]) if (match := ends.get(case)) else name for case, name in names.items()}


def on_both_sides(of: Mapping[str, str], train: Iterable[str], val: Iterable[str]) -> list[str]:
    """Patients of cases of both sides, sorted."""
    sides: Sequence[set[str]] = [{of[case] for case in cases if case in of} for cases in (train, val)]
    return sorted(sides[0] & sides[1])


def largest(of: Mapping[str, str]) -> tuple[str, int]:
    """The patient with the most cases, and how many."""
    return Counter(of.values()).most_common(1)[0]
