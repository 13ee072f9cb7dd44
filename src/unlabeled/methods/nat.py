"""Noise As Targets (Bojanowski and Joulin, ICML 2017): predict noise, one fixed random point of the sphere per image.

The row of image i is the number of its code. The codes never change; who has which does: before the loss of a batch, in
every third epoch, the images of the batch trade codes so that each gets one near its output (algorithm 1, line 5). The
network cannot give all images the same output, because no two have the same code.

    scores S = z codes[rows of the batch]^T,   trade = the permutation with the largest sum of S[i, trade(i)]
    row of the batch <- row of the batch [trade],   loss = sum over the batch of |z - codes[row]|^2      (equations 2, 5)

Shapes: N images (those of the subset, where there is one), B batch, D output dims, K different codes, S = max(N, K) places.
A place is what only one image can hold; with fewer codes than images several places have the same code: place p has code
p mod K.
"""

from __future__ import annotations

import math
import zlib
from functools import cached_property

import torch
import torch.nn.functional as F

from unlabeled import diagnostics, losses, progress
from unlabeled.cluster.assignment import assign_batch, assign_free, assign_full
from unlabeled.config import FULL_SCORES, Config
from unlabeled.distributed import all_gather_rows, broadcast, rank, world_size
from unlabeled.errors import ConfigError, DataError, RunError
from unlabeled.methods.base import Embed, Method, OutputStatistics
from unlabeled.models import Backbone
from unlabeled.models.heads import l2_head
from unlabeled.progress import counted
from unlabeled.randomness import generator

RESIDENT_BYTES = 2**32
"""Codes up to this size live where the network does; more stay in main memory, and only those of a batch travel."""
DIGEST_ROWS = 256
"""Codes by whose signs it is recognised that a resumed run has drawn the same ones."""


class NoiseAsTargets(Method):
    """Targets are codes: `code_index`, int64 [N], the place of every image, all different; `codes` [K, D]."""

    code_index: torch.Tensor
    codes_digest: torch.Tensor
    moved: torch.Tensor

    def __init__(self, backbone: Backbone, num_images: int, config: Config) -> None:
        """Raises ConfigError where codes and images do not go together."""
        super().__init__(backbone, num_images, config.seed, config.subset)
        self.config = config
        self.num_codes = config.num_codes or self.num_rows
        self.places = max(self.num_codes, self.num_rows)
        self._check_sizes()
        self.dims = self.num_codes if config.targets == "onehot" else config.embedding_dims
        self.head = l2_head(backbone, self.dims, generator=generator(config.seed, "head"))
        order = torch.randperm(self.places, generator=generator(config.seed, "code index"))
        self.register_buffer("code_index", order[: self.num_rows].clone())
        self.register_buffer("codes_digest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("moved", torch.zeros((), dtype=torch.int64))
        self.statistics = OutputStatistics(self.dims, "mean_distance")
        self.epoch = 0

    @cached_property
    def codes(self) -> torch.Tensor:
        """K fixed rows [K, D] uniform on the sphere: normal samples scaled to length one.

        Drawn from the seed when first needed, never stored: at ImageNet's size they are 10 GB. Raises RunError if this
        run was begun with others, which another version of torch could draw.
        """
        drawn = torch.randn(self.num_codes, self.dims, generator=generator(self.seed, "codes"))
        digest = zlib.crc32((drawn[:DIGEST_ROWS] > 0).numpy().tobytes())
        if int(self.codes_digest) not in (0, digest):
            raise RunError(
                "the random codes this run began with cannot be drawn again, because torch's random numbers have changed "
                "since; resume with the version of torch in the run's environment.json."
            )
        self.codes_digest.fill_(digest)
        codes = F.normalize(drawn, dim=1)
        return codes.to(self.code_index.device) if codes.nbytes <= RESIDENT_BYTES else codes

    def rows(self, place: torch.Tensor) -> torch.Tensor:
        """Codes [..., D] of these places, on the places' device."""
        ids = place % self.num_codes
        return self.codes[ids.to(self.codes.device)].to(place.device)

    @property
    def permutes(self) -> bool:
        """Whether this epoch matches outputs and codes anew."""
        return self.config.permute_every > 0 and self.epoch % self.config.permute_every == 0

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Note the epoch; with `assignment = full` match all images, from their central views."""
        full = self.config.assignment == "full" and self.config.permute_every and not epoch % self.config.permute_every
        z = all_gather_rows(self.outputs(embed(self.chosen))) if full else None
        self.epoch = epoch
        self.moved.zero_()
        self.statistics.reset()
        if z is not None:
            self._match_all(z)

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Places [B] of these images, after the batch has traded them if this is an epoch that does."""
        if self.permutes and self.config.assignment != "full":
            self._trade(self.row_of(index), z)
        return self.code_index[self.row_of(index)]

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Squared distance of outputs [B, D] to the codes of their places [B], summed over the batches of all ranks."""
        if self.config.targets == "onehot":
            total = losses.square_loss_to_basis(z, target % self.num_codes)
        else:
            total = losses.square_loss(z, self.rows(target))
        # Gradients are averaged over ranks.
        return total * world_size() if self.config.loss_reduction == "sum" else total / len(z)

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Count; the table was rewritten before the loss."""
        own = self.code_index[self.row_of(index)]
        cosine = z.gather(1, own[:, None] % self.num_codes)[:, 0] if self._onehot else (z * self.rows(own)).sum(dim=1)
        self.statistics.add(z, 2 - 2 * cosine)

    def summary(self) -> dict[str, float]:
        """Share of images that got another code this epoch, mean squared distance to it, spread of the outputs.

        With `assignment = free` also the share of images that hold the commonest code.
        """
        result = {"moved_share": float(self.moved) / self.num_rows, **self.statistics.summary()}
        if self.config.assignment == "free":
            ids = self.code_index % self.num_codes
            result["code_share"] = diagnostics.cluster_statistics(ids, self.num_codes)["largest_share"]
        return result

    def spaces(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs, which are what is compared with codes."""
        return {"output": self.outputs(features)}

    def table_bytes(self) -> int:
        """Codes and places; basis vectors are never made."""
        return super().table_bytes() + (0 if self._onehot else 4 * self.num_codes * self.dims)

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """Which codes, and when they are matched."""
        number = f"{config.num_codes:,}" if config.num_codes else "one for every image"
        kind = (
            "basis vectors" if config.targets == "onehot" else f"points of the sphere in {config.embedding_dims} dims"
        )
        how = {"permutation": f"in the batch ({config.match})", "full": "over all images", "free": "freely"}
        when = (
            f"{how[config.assignment]}, every {counted(config.permute_every, 'epoch')}"
            if config.permute_every
            else "never"
        )
        return {"codes": f"{number}, {kind}", "matched": when}

    def get_extra_state(self) -> torch.Tensor:
        """The epoch, which decides whether a run resumed inside it matches."""
        return torch.tensor(self.epoch)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take over what `get_extra_state` gave."""
        self.epoch = int(state)

    @property
    def _onehot(self) -> bool:
        return self.config.targets == "onehot"

    def scores(self, z: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Inner products [B, P] of outputs [B, D] with the codes of places [P]."""
        return z[:, place % self.num_codes] if self._onehot else z @ self.rows(place).T

    def _trade(self, rows: torch.Tensor, z: torch.Tensor) -> None:
        if self.config.assignment == "free":
            everything = torch.arange(self.num_codes, device=rows.device)
            images, places = all_gather_rows(rows), all_gather_rows(assign_free(self.scores(z, everything)))
        elif self.config.match == "global":
            images, outputs = all_gather_rows(rows), all_gather_rows(z)
            held = self.code_index[images]
            places = broadcast(held[assign_batch(self.scores(outputs, held))])
        else:
            held = self.code_index[rows]
            images, places = all_gather_rows(rows), all_gather_rows(held[assign_batch(self.scores(z, held))])
        self._rewrite(images, places)

    def _match_all(self, z: torch.Tensor) -> None:
        # In one group where that fits. Otherwise in as few as fit, drawn anew each time, so that a code can travel through
        # all of them; codes nobody holds are dealt out among the groups. Ranks share the groups.
        count = min(self.num_rows, math.ceil(math.sqrt(self.num_rows * self.places / FULL_SCORES)))
        drawn = generator(self.seed, "groups", self.epoch)
        order, held = torch.randperm(self.num_rows, generator=drawn), self.code_index.cpu()
        free = torch.ones(self.places, dtype=torch.bool).index_fill_(0, held, value=False).nonzero()[:, 0]
        free = free[torch.randperm(len(free), generator=drawn)]
        groups = list(zip(order.tensor_split(count), free.tensor_split(count), strict=True))[rank() :: world_size()]
        images, places = [order[:0]], [order[:0]]
        with progress.bar("codes", len(groups)) as update:
            for done, (group, spare) in enumerate(groups, 1):
                offered = torch.cat([held[group], spare])
                images.append(group)
                places.append(offered[assign_full(-self.scores(z[group], offered))])
                update(done, "")
        device = self.code_index.device
        self._rewrite(all_gather_rows(torch.cat(images).to(device)), all_gather_rows(torch.cat(places).to(device)))

    def _rewrite(self, images: torch.Tensor, places: torch.Tensor) -> None:
        # The same on every rank.
        if images.unique().numel() != images.numel():
            raise DataError(
                f"an image may appear once in a batch, got {images.numel() - images.unique().numel()} repeats among "
                f"{images.numel()}: two of them could then hold one code; draw without replacement."
            )
        self.moved += (self.code_index[images] % self.num_codes != places % self.num_codes).sum()
        self.code_index[images] = places

    def _check_sizes(self) -> None:
        count = self.num_rows
        if self.num_codes > count and self.config.assignment == "permutation":
            raise ConfigError(
                f"num_codes ({self.num_codes:,}) must be at most the number of images ({count:,}), because a batch can only "
                "trade the codes its images hold; lower it, or use `--assignment full`."
            )
