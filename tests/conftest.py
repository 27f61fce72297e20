"""Shared by all tests: golden values, a tiny preset, phantoms on disk, the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wdm_cli.engine import native

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's caches; one thread, so that bits do not depend on the machine's load."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WDM_")]:
            patch.delenv(name)
        patch.setenv("WDM_CACHE_DIR", str(cache))
        native.keep_in(lambda: cache / "kernels")  # as the command would
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Values measured on the official implementation."""
    return json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture(scope="session")
def official_keys() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the official checkpoints."""
    return json.loads((GOLDEN / "official_keys.json").read_text())
