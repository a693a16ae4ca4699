"""The command line, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(
    *arguments: object, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``matgraft`` in a folder, wide enough for its tables, and keep what it says."""
    return subprocess.run(
        [sys.executable, "-m", "matgraft", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
    )
