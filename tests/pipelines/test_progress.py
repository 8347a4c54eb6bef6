"""The line of progress: its counts, rate and ETA, on a terminal and in a log."""

import io

from pipelines.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rate_and_eta_leave_out_the_time_to_the_first_series() -> None:
    clock = Clock()
    progress = Progress(10, io.StringIO(), clock)
    clock.now_s = 100.0  # the cluster starts
    progress.add("ok")
    for status in ("ok", "rejected", "failed", "lost"):
        clock.now_s += 30.0
        progress.add(status)
    assert progress.line() == "5/10 series  ok 2  rejected 1  failed 2  2.0/min  ETA 2 min"


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, stream, clock)
    for _ in range(100):
        clock.now_s += 1.0
        progress.add("ok")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert 6 <= len(lines) <= 9
    assert lines[-1].startswith("100/100 series  ok 100")
    assert "ETA" not in lines[-1]
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_one_line_rewritten_in_place() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(3, stream, clock)
    for _ in range(3):
        clock.now_s += 1.0
        progress.add("ok")
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 5
