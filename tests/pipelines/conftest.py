"""Fixtures of the tests of runs and commands."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of the smallest size, as a checkpoint of ours: for where masks are not the point."""
    import torch

    from ctsam3d.network import build, checkpoint

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    checkpoint.save(file, build("nano"), {"note": "untrained"})
    return file
