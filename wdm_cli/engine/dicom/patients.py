"""Who is one patient: PatientID, unless it is a placeholder that an anonymiser gave to everybody.

What identifies a person (PatientID, birth date, sex) is turned into codes at once, compared in memory and never
written; only the code of the patient, or of the study that stands for one, gets out.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wdm_cli.engine.dicom.headers import Slice

PUBLIC = (r"LIDC-IDRI-[0-9]{4}", r"[0-9]{3}_S_[0-9]{4}")
PLACEHOLDERS = re.compile(
    r"|anon(ym(ous|ized?|ised?|us)?)?|deid(entified)?|removed|redacted|deleted|unknown|undefined|none|null|na|nan|nil|noname"
    r"|noid|nobody|patient(id|name)?|pat|subject|id|test|dummy|default|empty|blank|0+|x+|1{4,}|9{4,}|12345(6(7(8(90?)?)?)?)?"
)
"""PatientIDs, without case and punctuation, that anonymisers and test patients carry."""
MANY_STUDIES = 3  # under one PatientID of an archive whose identities were removed: no longer one person


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose image it is, in codes. study: of the StudyInstanceUID. placeholder: PatientID is a word such as
    ANONYMOUS. spelling: of PatientID without case and blanks. birth, sex: empty where they are not given.
    removed: PatientIdentityRemoved says YES."""

    code: str
    study: str
    placeholder: bool = False
    spelling: str = ""
    birth: str = ""
    sex: str = ""
    removed: bool = False


def owner(patient_id: str, study_uid: str, birth: str, sex: str, removed: str) -> Owner:
    """From the texts of PatientID, StudyInstanceUID, PatientBirthDate, PatientSex and PatientIdentityRemoved."""
    public = any(re.fullmatch(pattern, patient_id) for pattern in PUBLIC)
    return Owner(
        code=patient_code(patient_id, study_uid),
        study=patient_code("", study_uid),
        placeholder=not public and bool(PLACEHOLDERS.fullmatch(re.sub(r"[\W_]+", "", patient_id.lower()))),
        spelling="" if public or not patient_id else _hash(re.sub(r"\s+", "", patient_id).casefold()),
        birth="" if public or not birth else _hash(birth),
        sex=sex.strip().upper() if not public and sex.strip().upper() in ("M", "F") else "",
        removed=removed.strip().upper() == "YES" and not public,
    )


def patient_code(patient_id: str, study_uid: str) -> str:
    """A name for a patient that tells nobody who it is; the public LIDC-IDRI numbers stay as they are,
    and the codes that ADNI gives its participants.

    Without a PatientID the study stands for the patient, so that strangers are not taken for one.
    """
    if re.fullmatch(PUBLIC[0], patient_id):
        return patient_id
    if re.fullmatch(PUBLIC[1], patient_id):
        return f"ADNI_{patient_id}"
    return f"sub-{_hash(f'patient {patient_id}' if patient_id else f'study {study_uid}')}"


def settle(slices: Sequence[Slice]) -> tuple[list[Slice], list[str]]:
    """The slices with the patient they belong to, and warnings about what PatientID did not tell.

    A PatientID is no patient, and the study stands for one, if it is a placeholder by its word; if birth dates or
    sexes differ under it; or if it is the only one of an archive with PatientIdentityRemoved and several studies.
    PatientIDs that differ in case and blanks only are one patient.
    """
    owners = {item.owner for item in slices if item.owner}
    spellings: dict[str, set[str]] = defaultdict(set)
    for who in owners:
        spellings[who.spelling or who.code].add(who.code)
    one = {code: min(codes) for codes in spellings.values() for code in codes}
    people: dict[str, set[Owner]] = defaultdict(set)
    for who in owners:
        people[one[who.code]].add(who)
    shared = {code: why for code, group in people.items() if (why := _no_person(group, alone=len(people) == 1))}
    warnings = []
    for why in sorted(set(shared.values())):
        warnings.append(_warning(why, [people[code] for code in shared if shared[code] == why]))
    merged = sum(len(codes) > 1 and one[min(codes)] not in shared for codes in spellings.values())
    if merged:
        warnings.append(f"{merged} PatientIDs are spelled in several ways (case, blanks): each is taken as one patient")
    studies = len({who.study for who in owners})
    if len(people) == 1 and not shared and studies >= MANY_STUDIES:
        warnings.append(f"all {studies} studies carry one PatientID: they are taken as one patient")
    return [_settled(item, shared, one) for item in slices], warnings


def _settled(item: Slice, shared: dict[str, str], one: dict[str, str]) -> Slice:
    if item.owner is None:
        return item
    code = one[item.owner.code]
    patient = item.owner.study if code in shared else code
    return item if patient == item.patient else replace(item, patient=patient)


def _no_person(owners: set[Owner], *, alone: bool) -> str:
    """Why a PatientID does not stand for one person, or nothing."""
    studies = len({who.study for who in owners})
    if studies < 2:
        return ""
    if any(who.placeholder for who in owners):
        return "is a placeholder (such as ANONYMOUS or 0)"
    for name, values in (("PatientSex", {who.sex for who in owners}), ("PatientBirthDate", {w.birth for w in owners})):
        if len(values - {""}) > 1:
            return f"covers people whose {name} differs"
    if alone and studies >= MANY_STUDIES and all(who.removed for who in owners):
        return "is the same in the whole archive, and PatientIdentityRemoved is YES"
    return ""


def _warning(why: str, people: list[set[Owner]]) -> str:
    studies = len({who.study for owners in people for who in owners})
    many = f"a PatientID {why}" if len(people) == 1 else f"{len(people)} PatientIDs, each of which {why}"
    return f"{many}: each of the {studies} studies is taken as a patient; a split may part those of one person"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
