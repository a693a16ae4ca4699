"""The README says what the committed results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_tables_come_from_the_committed_results():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_first_two_shell_blocks_install_and_run_and_test():
    blocks = (ROOT / "README.md").read_text().split("```bash\n")[1:3]
    assert "pip install" in blocks[0]
    assert "matgraft finetune" in blocks[0]
    assert "pip install" in blocks[1]
    assert "pytest" in blocks[1]


def test_rooms_import_downhill():
    """``docs/architecture.md``: a room imports only rooms above it."""
    order = ["data", "graphs", "models", "training", "evaluation", "dft", "screening", "jobs", "paper", "cli"]
    for height, room in enumerate(order):
        for path in (ROOT / "src" / "matgraft" / room).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] == ["from"] and words[1].startswith("matgraft."):
                    imported = words[1].split(".")[1]
                    assert imported not in order[height + 1 :], f"{path}: {line.strip()}"
