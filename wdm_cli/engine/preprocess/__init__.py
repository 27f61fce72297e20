"""From an archive to training volumes, nothing lost and nothing silent.

plan = plan_lidc(scan(folder), folder, Policy(), Target())     # headers only
for entry in run(plan, out, workers=2): ...                    # volumes, previews, manifest.jsonl
"""

from wdm_cli.engine.preprocess.lidc import plan_lidc, plan_mr
from wdm_cli.engine.preprocess.manifest import Entry, tally
from wdm_cli.engine.preprocess.nifti import plan_brats, plan_nifti
from wdm_cli.engine.preprocess.preview import write_contact_sheet
from wdm_cli.engine.preprocess.target import Target
from wdm_cli.engine.preprocess.work import Plan, run, space_for

__all__ = [
    "Entry",
    "Plan",
    "Target",
    "plan_brats",
    "plan_lidc",
    "plan_mr",
    "plan_nifti",
    "run",
    "space_for",
    "tally",
    "write_contact_sheet",
]
