"""How far long work has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

EVERY = 10.0
"""Least seconds between two plain lines, so that a log of a day stays readable."""


def duration(seconds: float) -> str:
    """``3:10`` or ``1:02:05``."""
    minutes, seconds = divmod(int(max(seconds, 0.0) + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Context manager that reports on work done in steps.

    On a terminal a bar; elsewhere a line at the start, at most one every 10 s, and one at the end, such as
    ``pretrain 12/50 epochs, 3:10 elapsed, 10:02 left, validation 0.046``. Show one at a time: work inside
    other work takes ``enabled=False``.

    Parameters
    ----------
    total : int or None
        Number of steps, None if it is not known.
    title : str
        What is going on, for instance ``pretrain``.
    enabled : bool or None
        False says nothing at all. None speaks wherever there is a stream to speak to.
    stream : text file, optional
        Standard error by default, which leaves standard output to the results.
    unit : str
        What the steps are, in the plural: ``epochs``.
    done : int
        Steps made by an earlier run that this one resumes; they do not count for the speed.
    left : callable, optional
        Seconds left, or None while that is not known; for steps of very unequal length.
    clock : callable
        Seconds that only ever grow.

    Examples
    --------
    >>> with Progress(50, "pretrain", unit="epochs") as progress:
    ...     for epoch in range(50):
    ...         progress.step(validation=0.046)
    """

    def __init__(
        self,
        total: int | None,
        title: str,
        enabled: bool | None = None,
        stream: TextIO | None = None,
        *,
        unit: str = "",
        done: int = 0,
        left: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.title, self.unit = total, title, unit
        self.count = self._done = done
        self.figures: dict[str, str] = {}
        self._clock, self._left = clock, left
        # Looked up here and not in the signature: whoever redirects standard error does so after the import.
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled is not False and self._stream is not None
        self._start = self._told = clock()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._start = self._told = self._clock()
        if not self._enabled:
            return self
        self._console = console = Console(file=self._stream)
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = RichProgress(
                _Line(self),
                console=console,
                refresh_per_second=4,
                # Results on standard output may be piped elsewhere; rich would divert them to this stream.
                redirect_stdout=False,
            )
            self._bar.add_task("")
            self._bar.start()
        else:
            self._say(self._head())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            return
        times = f"stopped after {self._elapsed()}" if kind else f"{self._elapsed()} elapsed"
        self._say(", ".join([self._head(), times, *self._shown()]))

    def step(self, n: int = 1, **figures: float | int | str) -> None:
        """Count ``n`` more steps, and show these figures until newer ones of the same name come.

        Parameters
        ----------
        n : int
        **figures : float, int or str
            For instance ``validation=0.046``; underscores in a name become spaces.
        """
        self.count += n
        if not self._enabled:
            return
        for name, value in figures.items():
            self.figures[name.replace("_", " ")] = _short(value)
        if self._bar is not None:
            return
        now = self._clock()
        # The last step is told on leaving.
        if now - self._told >= EVERY and self.count != self.total:
            self._told = now
            self._say(", ".join([self._head(), *self._times(), *self._shown()]))

    def note(self, message: str) -> None:
        """Print a line of its own without tearing the bar."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(Text(message))
        else:
            self._say(message)

    def _head(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        return f"{self.title} {self.count}{of} {self.unit}".rstrip()

    def _elapsed(self) -> str:
        return duration(self._clock() - self._start)

    def _times(self) -> list[str]:
        seconds = self._clock() - self._start
        times = [f"{duration(seconds)} elapsed"]
        made = self.count - self._done
        if self.total is not None and self.count < self.total:
            even = seconds / made * (self.total - self.count) if made else None
            left = self._left() if self._left is not None else even
            times += [] if left is None else [f"{duration(left)} left"]
        return times

    def _shown(self) -> list[str]:
        return [f"{name} {value}" for name, value in self.figures.items()]

    def _say(self, line: str) -> None:
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):
            # A reader that has gone away (a closed pipe or terminal) is no reason to lose a day's training.
            self._enabled = False


class _Line(ProgressColumn):
    """Head, bar, times and figures in one column: what a narrow terminal cuts off is the end."""

    max_refresh = None

    def __init__(self, progress: Progress):
        super().__init__(table_column=Column(no_wrap=True, overflow="ellipsis"))
        self.progress = progress

    def render(self, task: Task) -> Text:
        said, console = self.progress, self.progress._console
        line = Text(f"{said._head()} ", style="bold")
        if said.total:
            width = 24 if console.width >= 100 else 12
            stroke = "-" if console.options.ascii_only else "━"
            made = int(width * min(said.count / said.total, 1.0))
            line.append(stroke * made, style="not bold green")
            line.append(stroke * (width - made), style="not bold bright_black")
        line.append("  ".join(["", *said._times(), *said._shown()])[1:], style="not bold")
        return line


def _short(value: float | int | str) -> str:
    if isinstance(value, str | bool | int):
        return str(value)
    value = float(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
