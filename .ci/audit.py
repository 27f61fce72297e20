"""Known vulnerabilities of the pinned versions: found ones fail, an index that cannot be asked is said and does not."""

import json
import subprocess
import sys
from pathlib import Path

command = [sys.executable, "-m", "pip_audit", "-r", str(Path(__file__).parents[1] / "constraints.txt"), "--no-deps"]
command += ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
try:
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(run.stdout)["dependencies"]
except (subprocess.TimeoutExpired, ValueError, KeyError):
    print("NOT AUDITED: the package index could not be asked for known vulnerabilities; run `make audit` online")
    sys.exit(0)
skipped = [item["name"] for item in found if "skip_reason" in item]
bad = [f"{item['name']} {item['version']}: {vuln['id']}" for item in found for vuln in item.get("vulns", [])]
if skipped:
    print(f"NOT AUDITED: the package index said nothing about {len(skipped)} of {len(found)} packages")
if audited := len(found) - len(skipped):
    print("\n".join(bad) or f"audit: no known vulnerabilities in {audited} packages")
sys.exit(bool(bad))
