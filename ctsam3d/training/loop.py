"""Train a network step by step: a stream of batches and a loss in, checkpoints, a CSV log and averaged weights out.

Every random draw is a function of (seed, step), so a run that is stopped and resumed at its last checkpoint takes the
same steps as one that never stopped.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ctsam3d.training.half_precision import half_precision

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int
    batch: int
    learning_rate: float
    warm_up_steps: int = 100
    clip_norm: float = 1.0
    largest_norm: float = 1000.0  # a step with a steeper gradient is an accident and is skipped
    ema_decay: float = 0.998
    weight_decay: float = 1e-4
    seed: int = 0
    save_every_s: float = 120.0
    validate_every: int = 250
    workers: int = 1
    half_precision: bool = False  # bfloat16 where autocast knows it to be safe

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero."""
        if step < self.warm_up_steps:
            return self.learning_rate * (step + 1) / self.warm_up_steps
        done = (step - self.warm_up_steps) / max(1, self.steps - self.warm_up_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Steps(IterableDataset[Batch]):
    """Samples of steps `first`.. in order; sample i of step s is drawn from (seed, s, i) alone."""

    def __init__(self, draw: Callable[[tuple[int, int, int]], Batch], first: int, schedule: Schedule) -> None:
        self.draw, self.first, self.schedule = draw, first, schedule

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # DataLoader takes whole batches from its workers in turn
        for step in range(self.first + worker, self.schedule.steps, workers):
            for item in range(self.schedule.batch):
                yield self.draw((self.schedule.seed, step, item))


def train(
    model: nn.Module,
    draw: Callable[[tuple[int, int, int]], Batch],
    loss_of: Callable[[Any, Batch, int], tuple[torch.Tensor, dict[str, float]]],
    schedule: Schedule,
    folder: Path,
    device: torch.device,
    time_limit_s: float | None = None,
    validation: Callable[[nn.Module], dict[str, float]] | None = None,
) -> dict[str, torch.Tensor]:
    """Run or resume a training; returns the averaged weights.

    Args:
        draw: (seed, step, item) -> one sample, tensors without the batch axis.
        loss_of: (model, batch, step) -> loss and figures for the log.
        folder: holds `state.pt` (to resume from), `log.csv` and `validation.csv`.
        time_limit_s: stop after this long, at a checkpoint.
        validation: figures of the averaged weights, taken every so many steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    step = 0
    state_file = folder / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]

    def save() -> None:
        partial = state_file.with_suffix(".partial")
        state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "average": average, "step": step}, partial)
        partial.replace(state_file)

    precision = partial(half_precision, device, enabled=schedule.half_precision)
    averaged = copy.deepcopy(model).eval() if validation else model
    loader = DataLoader(
        Steps(draw, step, schedule), batch_size=schedule.batch, num_workers=schedule.workers,
        prefetch_factor=4 if schedule.workers else None, pin_memory=device.type == "cuda",
    )  # fmt: skip
    started = saved = time.monotonic()
    with (folder / "log.csv").open("a", newline="") as log_file:
        log: Any = None
        for batch in loader:
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            with precision():
                loss, figures = loss_of(model, batch, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm))
            if norm <= schedule.largest_norm:  # not so if it is no number
                optimizer.step()
            step += 1
            _follow(average, model.state_dict(), min(schedule.ema_decay, (1 + step) / (10 + step)))
            row = {
                "step": step,
                "seconds": round(time.monotonic() - started, 1),
                "loss": float(loss.detach()),
                "norm": norm,
            }
            row |= figures
            if log is None:
                log = csv.DictWriter(log_file, list(row))
                if log_file.tell() == 0:
                    log.writeheader()
            log.writerow(row)
            if validation and step % schedule.validate_every == 0:
                averaged.load_state_dict(average)
                with precision():
                    _append(folder / "validation.csv", {"step": step} | validation(averaged))
            now = time.monotonic()
            stop = time_limit_s is not None and now - started > time_limit_s
            if stop or now - saved > schedule.save_every_s:
                log_file.flush()
                save()
                saved = now
            if stop:
                break
    save()
    return average


@torch.no_grad()
def _follow(average: dict[str, torch.Tensor], state: dict[str, torch.Tensor], decay: float) -> None:
    """Move an average a little towards a state; counters are taken over."""
    names = [name for name, value in state.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in names], [state[name] for name in names], 1 - decay)
    for name in state.keys() - set(names):
        average[name].copy_(state[name])


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a CSV file, with a header where it is the first."""
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
