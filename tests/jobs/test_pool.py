"""Processes that die are named, and nobody waits for them for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from matgraft.errors import LostWorker
from matgraft.jobs.pool import finished, pool

LARGE = np.arange(1_000_000)
"""More than a pipe holds."""

SCRIPT = """
import numpy as np
from matgraft.jobs.pool import pool

with pool(2, np.arange(1_000_000)) as executor:
    executor(np.sum).result()
"""

WAITING = """
import time
from functools import partial
from matgraft.jobs.pool import pool

if __name__ == "__main__":
    with pool(1) as executor:
        executor(partial(print, flush=True), "at work").result()
        executor(time.sleep, 60).result()
"""


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_get_the_arguments(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pool(2, LARGE) as executor:
        futures = {executor(np.sum): k for k in range(4)}
        assert dict(finished(futures)) == dict.fromkeys(range(4), int(LARGE.sum()))
    assert not list(tmp_path.iterdir())


def test_a_killed_process_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(LostWorker, match="killed, out of memory"), pool(1, LARGE) as executor:
        executor(_die).result()
    assert not list(tmp_path.iterdir())


def test_a_script_that_starts_itself_in_its_processes_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert 'without if __name__ == "__main__"' in done.stderr.splitlines()[-1], done.stderr


def test_an_error_in_one_pool_leaves_another_at_work():
    def fail() -> None:
        with pool(1) as executor:
            executor(abs, -1).result()
            raise ValueError("of our own")

    with pool(1) as executor:
        begun = executor(time.sleep, 2)
        with pytest.raises(ValueError, match="of our own"):
            fail()
        begun.result()


def test_an_interrupted_terminal_ends_all_at_once_and_quietly(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WAITING)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As on a terminal: what a shell starts in the background is deaf to it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as started:
        assert started.stdout.readline() == "at work\n"
        begun = time.monotonic()
        os.killpg(started.pid, signal.SIGINT)
        _, said = started.communicate(timeout=30)
    assert time.monotonic() - begun < 20
    assert said.count("Traceback") == 1, said


def test_nothing_is_left_of_a_process_that_was_told_to_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WAITING)
    (tmp_path / "scratch").mkdir()
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "TMPDIR": str(tmp_path / "scratch")},
        stdout=subprocess.PIPE,
    ) as started:
        assert started.stdout.readline() == b"at work\n"
        started.send_signal(signal.SIGTERM)
    until = time.monotonic() + 30
    while list((tmp_path / "scratch").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.05)
