"""tools/audit.py: a known vulnerability fails the check, an index that does not answer is said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "tools" / "audit.py"
SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "torch", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ([SOUND], 0, "1 packages audited, 0 known vulnerabilities"),
        ([SOUND, BAD], 1, "old 1.0: CVE-1, fixed in 1.1"),
        ([SOUND, UNKNOWN], 0, "NOT AUDITED: the index knows nothing of 1 of 2 packages"),
        ([BAD, UNKNOWN], 1, "CVE-1"),
        (None, 0, "NOT AUDITED: no package index answered"),
    ],
)
def test_what_an_audit_says(
    answer: Any, code: int, said: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("audit", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    text = "" if answer is None else json.dumps({"dependencies": answer})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, text, "no route"))
    assert audit.main() == code
    told = capsys.readouterr()
    assert said in told.out + told.err
