import io

import pytest

from matgraft.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (190, "3:10"), (3725, "1:02:05"), (-1, "0:00")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_lines_come_every_ten_seconds_besides_first_and_last():
    clock, stream = Clock(), io.StringIO()
    with Progress(50, "pretrain", stream=stream, unit="epochs", clock=clock) as progress:
        for epoch in range(50):
            clock.now += 4.0
            progress.step(validation=0.5 / (epoch + 1))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "pretrain 0/50 epochs"
    assert lines[1] == "pretrain 3/50 epochs, 0:12 elapsed, 3:08 left, validation 0.167"
    assert lines[-1] == "pretrain 50/50 epochs, 3:20 elapsed, validation 0.01"
    assert len(lines) == 2 + 16


def test_fast_work_is_two_lines():
    stream = io.StringIO()
    with Progress(1000, "graphs", stream=stream, clock=Clock()) as progress:
        for _ in range(1000):
            progress.step()
    assert stream.getvalue() == "graphs 0/1000\ngraphs 1000/1000, 0:00 elapsed\n"


def test_steps_made_before_do_not_count_for_the_speed():
    clock, stream = Clock(), io.StringIO()
    with Progress(50, "pretrain", stream=stream, done=40, clock=clock) as progress:
        clock.now += 20.0
        progress.step()
    assert "pretrain 41/50, 0:20 elapsed, 3:00 left" in stream.getvalue()


def test_a_figure_stays_until_a_newer_one():
    clock, stream = Clock(), io.StringIO()
    with Progress(None, "search", stream=stream, unit="candidates", clock=clock) as progress:
        progress.step(5, best_gap=1.25, kept=12_345.0)
        clock.now += 30.0
        progress.step(7, kept="many")
    assert stream.getvalue().splitlines()[-1] == (
        "search 12 candidates, 0:30 elapsed, best gap 1.25, kept many"
    )


def test_an_interrupted_run_says_where_it_stopped():
    clock, stream = Clock(), io.StringIO()

    def work():
        with Progress(50, "pretrain", stream=stream, clock=clock) as progress:
            clock.now += 8.0
            progress.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue().splitlines()[-1] == "pretrain 1/50, stopped after 0:08"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_says_nothing_but_counts(stream):
    with Progress(3, "pretrain", enabled=False, stream=stream) as progress:
        progress.step(2, validation=1.0)
        progress.note("unheard")
    assert stream.getvalue() == ""
    assert progress.count == 2


def test_a_terminal_gets_a_bar():
    clock, stream = Clock(), Terminal()
    with Progress(4, "pretrain", stream=stream, unit="epochs", clock=clock) as progress:
        clock.now += 70.0
        progress.step(2, validation=0.046)
        progress.note("[half] way")
    last = stream.getvalue().rsplit("pretrain", 1)[1]
    assert "2/4 epochs" in last
    assert "━" in last
    assert "1:10 elapsed  1:10 left  validation 0.046" in last
    assert "[half] way" in stream.getvalue()


def test_a_bar_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    with Progress(4, "pretrain", stream=stream, clock=Clock()) as progress:
        progress.step(training_loss=0.1234, validation_mae=0.046, rate=0.001)
    # Cursor up is what a second line of the bar would need.
    assert "\x1b[1A" not in stream.getvalue()
    assert "0:00 left  training…" in stream.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(1, "pretrain", stream=stream, clock=Clock()) as progress:
        progress.step()
    assert stream.getvalue() == "pretrain 0/1\npretrain 1/1, 0:00 elapsed\n"


def test_standard_error_is_looked_up_when_needed(capsys):
    with Progress(1, "pretrain", clock=Clock()) as progress:
        progress.step()
        print("result")
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    assert captured.err.startswith("pretrain 0/1\n")


def test_a_reader_that_went_away_does_not_stop_the_work():
    stream, clock = io.StringIO(), Clock()
    with Progress(3, "pretrain", stream=stream, clock=clock) as progress:
        stream.close()
        for _ in range(3):
            clock.now += 20.0
            progress.step()
    assert progress.count == 3
