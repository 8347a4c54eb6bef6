"""Fixtures of the tests of runs and commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cli import run_command
from tests.pipelines.test_cli import Done


@pytest.fixture
def ctsam3d_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command, in this process: another one takes longer to import what it needs than most commands."""

    def command(*arguments: str | Path) -> Done:
        code = run_command([*map(str, arguments)])
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return command


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of the smallest size, as a checkpoint of ours: for where masks are not the point."""
    import torch

    from ctsam3d.network import build, checkpoint

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    checkpoint.save(file, build("nano"), {"note": "untrained"})
    return file
