"""Fixtures of the tests of one study."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's convolutions of float32 are no less."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
