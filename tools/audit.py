"""Known vulnerabilities of the pinned versions, as far as a package index can be asked.

    python tools/audit.py

Exit 1 if one is known. An index that does not answer is said loudly and is no failure: nobody can mend it here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"
COMMAND = ["-m", "pip_audit", "-r", str(PINS), "--no-deps", "--disable-pip", "--progress-spinner=off", "-f", "json"]
PATIENCE = 120  # seconds


def main() -> int:
    try:
        asked = subprocess.run([sys.executable, *COMMAND], capture_output=True, text=True, timeout=PATIENCE)
        packages = json.loads(asked.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        print(f"NOT AUDITED: no package index answered ({type(error).__name__})", file=sys.stderr)
        return 0
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", [])]
    for package, flaw in found:
        fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}")
    if unknown:
        print(f"NOT AUDITED: the index knows nothing of {len(unknown)} of {len(packages)} packages", file=sys.stderr)
    else:
        print(f"{len(packages)} packages audited, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
