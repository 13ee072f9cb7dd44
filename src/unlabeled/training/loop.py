"""The training loop, the same for every method, and what surrounds it: resume, checkpoints, the journal.

The loop is the table of contents: rewrite the table, draw, predict, step, rewrite the rows seen. All randomness is keyed by
(seed, epoch, step), so a run that was stopped anywhere and continued is the run that was never stopped.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unlabeled import progress
from unlabeled.config import Config
from unlabeled.data.loading import Loader
from unlabeled.device import autocast, resolve_precision
from unlabeled.distributed import all_reduce_max, all_reduce_sum, barrier, is_distributed, is_main, rank, world_size
from unlabeled.errors import DivergedError, Interrupted, RunError, is_out_of_memory
from unlabeled.features import batch_statistics, embed, evaluation_mode
from unlabeled.methods.base import Embed, Method
from unlabeled.randomness import seed_from
from unlabeled.runs import checkpoint, cluster_history
from unlabeled.runs.folder import RunFolder
from unlabeled.runs.journal import Journal
from unlabeled.training import health
from unlabeled.training.optim import Optimizer, learning_rate
from unlabeled.training.signals import Stop
from unlabeled.writing import write_text

Evaluator = Callable[[Embed, bool], Mapping[str, float]]
"""Yields named numbers for the journal, called on every rank after every epoch with a way to features of the training
images and whether a look at them is due."""

EPOCH_SAVE_SECONDS = 30.0
"""Epochs shorter than this share a checkpoint: time decides how much is repeated after a kill, never a result."""
RECENT_EPOCHS = 10
"""Epochs whose mean time tells how long those to come will take: kinds of epochs differ, and machines get busier."""


def train(
    method: Method, loader: Loader, config: Config, run: RunFolder, evaluators: Sequence[Evaluator] = (), *, stop: Stop
) -> list[dict[str, Any]]:
    """Train until `config.epochs` are done, from the newest checkpoint in `run` if it has one. Returns the journal.

    Raises:
        Interrupted: `stop` was asked for; everything up to the last step is saved.
        RunError: a checkpoint cannot be read or written, or the loss is no longer a number.
    """
    device, dtype = loader.device, resolve_precision(config.precision, loader.device)
    method.to(device)
    optimizer = Optimizer(method.backbone, config)
    saver = Saver(method, optimizer, config, run)
    meter = saver.restore()

    def features(index: torch.Tensor | None = None, *, as_trained: bool = False) -> torch.Tensor:
        size, mode = (config.batch_size, batch_statistics) if as_trained else (2 * config.batch_size, evaluation_mode)
        try:
            found = embed(
                method.backbone, loader, index, dtype=dtype, batch_size=size, stop=stop.asked_alone, mode=mode
            )
        except Interrupted:
            saver.save(meter)
            raise
        return require_finite(found, meter.epoch)

    # Records of epochs that are not in the checkpoint are cut off and will be written again.
    with Journal(run.journal, meter.epoch, tensorboard=run.events) as journal:
        for epoch in range(meter.epoch, config.epochs):
            if meter.step == 0:
                method.before_epoch(epoch, features)
                keep_assignment(method, epoch, config, run)
                optimizer.adopt(method.head)
            network, order = wrap(method, config), method.draw(epoch)
            steps = len(order) // meter.batch
            with progress.bar(meter.title(config.epochs, journal.records), steps) as update:
                for index, view in loader.train_batches(order, epoch, config.batch_size, start_step=meter.step):
                    torch.manual_seed(seed_from(config.seed, "dropout", epoch, meter.step, rank()))
                    optimizer.set_lr(learning_rate(config, epoch + meter.step / steps))
                    method.before_step(index)
                    with autocast(device, dtype):
                        z = network(view)
                    target = method.targets(index, z.detach())
                    loss = method.loss(z.float(), target)
                    optimizer.step(loss, last=meter.step + 1 == steps)
                    method.after_step(index, z.detach())
                    meter.add(loss)
                    update(meter.step, meter.note())
                    saver.save_if_due(meter, stop)
            journal.write(finish_epoch(method, meter, config, evaluators, features, journal.records))
            meter = Meter(epoch + 1, batch=meter.batch)
            saver.keep_if_due(meter)
            saver.save_if_due(meter, stop)
    saver.save(meter)
    return journal.records


def require_finite(features: torch.Tensor, epoch: int) -> torch.Tensor:
    """The features themselves. Raises DivergedError, on every rank alike, if any is NaN or infinite."""
    broken = torch.tensor([float(not features.isfinite().all())])
    if bool(all_reduce_max(broken).item()):
        raise DivergedError(f"the features became NaN or infinite in epoch {epoch + 1}")
    return features


def global_batch(config: Config) -> int:
    """Images of a step, all ranks together."""
    return config.batch_size * world_size()


def keep_assignment(method: Method, epoch: int, config: Config, run: RunFolder) -> None:
    """Write the clusters this epoch begins with, if it made some and they are among those kept."""
    labels = method.assignment(epoch)
    if labels is not None and is_main() and cluster_history.is_kept(config, method.num_images, epoch):
        cluster_history.write(run.assignments, epoch, labels)


def wrap(method: Method, config: Config) -> nn.Module:
    """The network as this epoch trains it: gradients averaged over ranks, compiled if asked. Anew because heads change."""
    network: nn.Module = method.network().train()
    if config.compile:
        network = torch.compile(network)  # pyright: ignore[reportAssignmentType]
    if is_distributed():
        # Statistics are synchronised in the layers themselves, so no buffer needs sending around before a step.
        # torch 2.15 renamed the argument.
        known = signature(DistributedDataParallel).parameters
        renamed = "forward_sync_buffers" in known
        no_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        network = DistributedDataParallel(network, **no_buffers)
    return network


def finish_epoch(
    method: Method,
    meter: Meter,
    config: Config,
    evaluators: Sequence[Evaluator],
    features: Embed,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The journal's record of an epoch: loss, speed, the method's own numbers, evaluations, and the verdict on all of it."""
    epoch = meter.epoch + 1
    record: dict[str, Any] = {"epoch": epoch, "loss": meter.mean_loss(), "lr": learning_rate(config, epoch)}
    record |= method.summary()
    due = epoch == config.epochs or (config.evaluate_every and epoch % config.evaluate_every == 0)
    for evaluate in evaluators:
        record |= evaluate(features, bool(due))
    record |= {"seconds": round(meter.seconds(), 3), "images_per_second": round(meter.images_per_second(), 1)}
    verdict = health.diagnose([*history, record])
    record |= {"status": verdict.status, "verdict": verdict.sentence}
    knn = f"  kNN {100 * record['knn']:.1f} %" if "knn" in record else ""
    remaining = time_left([*history, record], config.epochs - epoch)
    progress.say(
        f"epoch {epoch:3d}  loss {record['loss']:.3f} {verdict.line()}{knn}  {meter.speed()}{remaining and f', {remaining}'}"
    )
    return record


def time_left(history: Sequence[Mapping[str, Any]], epochs: int, spent: float = 0.0) -> str:
    """How long so many more epochs will take, by the last ones in the journal, `spent` seconds being over; empty if unknown."""
    recent = [record["seconds"] for record in history[-RECENT_EPOCHS:]]
    if not recent or not epochs:
        return ""
    return f"about {progress.roughly(max(sum(recent) / len(recent) * epochs - spent, 0))} to go in all"


@dataclass
class Meter:
    """Where the run stands inside an epoch, and the running loss; part of every checkpoint."""

    epoch: int = 0
    step: int = 0
    images: int = 0
    loss_sum: float | torch.Tensor = 0.0
    elapsed: float = 0.0
    batch: int = 0
    """Images a step, all ranks together; 0 is unknown, as in checkpoints of earlier versions."""

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._shown = 0.0
        self._note = ""

    def on(self, batch: int) -> Meter:
        """The same place in the epoch where steps take `batch` images: a run may be resumed on more or fewer processes."""
        if not self.batch or self.batch == batch:
            return replace(self, batch=batch)
        progress.say(
            f"Note: steps took {self.batch:,} images in all and now take {batch:,} (batch_size times processes), so this is no "
            "longer the run that was begun."
        )
        # Rounded up: no image is shown twice, and an epoch that was begun is not begun again.
        step = math.ceil(self.step * self.batch / batch)
        return replace(self, batch=batch, step=step, loss_sum=self.loss_sum * step / max(self.step, 1))

    def add(self, loss: torch.Tensor) -> None:
        """Count one step."""
        # Kept on the device: reading it every step would make a GPU wait.
        self.loss_sum = self.loss_sum + loss.detach().double()
        self.step += 1
        self.images += self.batch

    def total_loss(self) -> float:
        """Sum of the losses of the steps so far, mean over ranks."""
        total = all_reduce_sum(torch.as_tensor(self.loss_sum, dtype=torch.float64).clone())
        if not math.isfinite(total):
            raise DivergedError(f"the loss became {float(total)} in epoch {self.epoch + 1}, and it must stay finite")
        return float(total) / world_size()

    def mean_loss(self) -> float:
        """Mean loss of the steps so far."""
        return self.total_loss() / max(self.step, 1)

    def seconds(self) -> float:
        """Time spent in this epoch, earlier sessions of a resumed run included."""
        return self.elapsed + time.monotonic() - self._begun

    def images_per_second(self) -> float:
        """Images trained on per second, all ranks together."""
        return self.images / max(self.seconds(), 1e-9)

    def speed(self) -> str:
        """`images_per_second` for people."""
        return f"{self.images_per_second():,.0f} images/s"

    def title(self, epochs: int, history: Sequence[Mapping[str, Any]]) -> str:
        """This epoch's name, and when all will be done by the seconds of those before, those of earlier sessions too."""
        name = f"epoch {self.epoch + 1} of {epochs}"
        remaining = time_left(history, epochs - self.epoch, self.seconds())
        # When the last one ends, its bar says by itself.
        return f"{name} ({remaining})" if remaining and self.epoch + 1 < epochs else name

    def note(self) -> str:
        """Speed and loss for the progress bar, refreshed twice a second."""
        now = time.monotonic()
        if now - self._shown > 0.5:
            self._shown = now
            local = float(self.loss_sum) / max(self.step, 1)
            self._note = f"{self.speed()}, loss {local:.3f}"
        return self._note


class Saver:
    """Checkpoints of a run: what is in them, when they are written, how they are read back."""

    def __init__(self, method: Method, optimizer: Optimizer, config: Config, run: RunFolder) -> None:
        self.method, self.optimizer, self.config, self.run = method, optimizer, config, run
        self._last_save = time.monotonic()

    def restore(self) -> Meter:
        """Load the newest whole checkpoint into method and optimizer; a fresh `Meter` where there is none."""
        found = checkpoint.load(self.run.checkpoints)
        if found is None:
            return Meter(batch=global_batch(self.config))
        for damage in found.damaged:
            progress.say(f"Warning: {damage} Going on from the checkpoint before it, {found.path.name}.")
        if found.epoch < self.config.epochs:
            progress.say(f"Continuing in epoch {found.epoch + 1}, after step {found.step}.")
        try:
            self.method.load_state_dict(_under("method.", found.tensors))
            self.optimizer.adopt(self.method.head)
            self.optimizer.load_state_tensors(_under("optimizer.", found.tensors))
        except (RuntimeError, KeyError) as error:
            if is_out_of_memory(error):
                raise
            raise RunError(
                f"{found.path} does not fit {self.run.config}: the configuration was changed, or another version of this program "
                "wrote it; put it back as it was, or begin anew with `--if-exists replace`."
            ) from None
        meter = Meter(found.epoch, found.step, **found.extra)
        # What has ended stays what it was, on however many processes the rest is made.
        return meter.on(global_batch(self.config)) if found.epoch < self.config.epochs else meter

    def save(self, meter: Meter) -> None:
        """Write a checkpoint now, on the first rank; the others wait, so that no rank outruns a failed write."""
        self._write(self.run.checkpoints, meter)
        barrier()
        self._last_save = time.monotonic()

    def keep_if_due(self, meter: Meter) -> None:
        """After every `snapshot_every`-th epoch, a copy of the run as it stands: a folder of its own that stays.

        It comes before the epoch's checkpoint: a kill between the two repeats the epoch and writes the same copy again.
        """
        every = self.config.snapshot_every
        if not every or meter.epoch % every:
            return
        copy = RunFolder(self.run.snapshots / f"epoch-{meter.epoch:05d}")
        if is_main():
            copy.make()
        self._write(copy.checkpoints, meter)
        if is_main():
            for name in (self.run.data.name, self.run.environment.name, self.run.start.name):
                if (self.run.path / name).is_file():
                    shutil.copyfile(self.run.path / name, copy.path / name)
            # A run that was asked for so many epochs; with its configuration, written last, the copy is whole.
            config = self.config.replace(epochs=meter.epoch, snapshot_every=0)
            write_text(copy.config, config.model_dump_json(indent=2) + "\n")
        barrier()

    def _write(self, folder: Path, meter: Meter) -> None:
        loss_sum = meter.total_loss()  # refuses to store what is no longer a number
        if not all(bool(parameter.isfinite().all()) for parameter in self.method.parameters()):
            raise DivergedError(f"weights became infinite or NaN in epoch {meter.epoch + 1}")
        if is_main():
            self._require_run()
            tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
            tensors |= {f"optimizer.{name}": value for name, value in self.optimizer.state_tensors().items()}
            extra = {"images": meter.images, "loss_sum": loss_sum, "elapsed": meter.seconds(), "batch": meter.batch}
            checkpoint.save(folder, meter.epoch, meter.step, tensors, keep=self.config.keep_checkpoints, extra=extra)

    def _require_run(self) -> None:
        """Raise RunError where the folder of the run is no longer what it was: what is written there would be lost."""
        if not self.run.config.is_file():
            raise RunError(
                f"{self.run.path} was moved, renamed or removed while it was trained (its {self.run.config.name} is gone): put it "
                f"back, or go to where it is now, and run `unlabeled resume` on it; what was saved before is there."
            )

    def save_if_due(self, meter: Meter, stop: Stop) -> None:
        """Save when enough time has passed, or when asked to stop, and then stop."""
        limit = 60 * self.config.save_minutes
        if meter.step == 0:
            limit = min(limit, EPOCH_SAVE_SECONDS)
        stopping = stop.asked()
        if stopping or stop.agree(time.monotonic() - self._last_save > limit):
            self.save(meter)
        if stopping:
            raise Interrupted


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
