"""The benchmarks run, and say what they compare with; how long anything took is nobody's business here."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import against, interleaved, peak_bytes


def test_works_are_timed_in_turn_and_the_first_turn_is_not_counted() -> None:
    now = 0.0
    calls: list[str] = []
    takes = {"quick": iter([50.0, 1, 2, 9]), "slow": iter([50.0, 4, 4, 5])}

    def work(name: str) -> None:
        nonlocal now
        calls.append(name)
        now += next(takes[name])

    works = {name: lambda name=name: work(name) for name in takes}
    assert interleaved(works, 3, lambda: now) == {"quick": 2, "slow": 4}
    assert calls == ["quick", "slow"] * 4


def test_a_figure_names_what_its_ratio_is_to() -> None:
    base, other = against("part", {"plain": 4.0, "ours": 1.0}, "s", "plain", "decode, ")
    assert (base.ratio, base.of) == (None, None)
    assert (other.name, other.ratio, other.of) == ("decode, ours", 0.25, "decode, plain")
    assert "0.250 x decode, plain" in other.line()


def test_the_peak_is_of_this_process_and_in_bytes() -> None:
    assert 10 * 2**20 < peak_bytes() < 2**40


def test_growth_runs_and_prints_json_alone_on_stdout() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "growth",
        "--series",
        "1",
        "2",
        "--objects",
        "20",
        "--rows",
        "960",
    ]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    report = json.loads(done.stdout)
    assert report["machine"]["cores"] >= 1
    named = {figure["name"]: figure for figure in report["figures"]}
    assert named["run, 2 series"]["of"] == "run, 1 series" and named["run, 2 series"]["value"] > 0
    assert named["discover, peak memory, 20 objects"]["ratio"] > 1
    assert len(done.stderr.splitlines()) == len(report["figures"])


def test_decoding_is_timed_with_what_the_network_needs_alone() -> None:
    program = (
        "import runpy, sys; sys.modules |= dict.fromkeys(['duckdb', 'nibabel', 'obstore', 'ray', 'SimpleITK']);"
        "sys.argv[1:] = ['decode', '--prompts', '1', '--repeats', '1', '--bfloat16'];"
        "runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=root
    )
    named = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    half = named["nano, second click, 1 prompts, ours bfloat16"]
    assert half["of"] == "nano, second click, 1 prompts, plain float32" and half["value"] > 0
    assert named["nano, second click, 1 prompts, ours float32: Dice"]["value"] > 0.999
