"""The typed description of one experiment.

A `Config` is a plain value: every number a run depends on, nothing that depends on the machine's paths. Recipes make
them, the command line changes single fields, `RUN/config.json` stores the one that was used. Unknown fields are refused
with a suggestion, and no number is silently rounded to fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unlabeled.errors import ConfigError, unknown_name

MethodName = Literal["deepcluster", "nat", "instance", "supervised"]
Clustering = Literal["kmeans", "pic", "pic_lin_cohen", "cliques"]
Stem = Literal["rgb", "sobel", "sobel_nat", "highpass"]
Normalization = Literal["dataset", "image"]
Head = Literal["linear", "no_relu"]
Feature = Literal["before_relu", "after_relu"]
Singletons = Literal["attach", "keep", "drop"]
SubsetMode = Literal["same", "resampled", "mismatched"]
Targets = Literal["sphere", "onehot"]
AssignmentRule = Literal["permutation", "full", "free"]
Match = Literal["rank", "global"]
Reduction = Literal["sum", "mean"]
Objective = Literal["softmax", "nce", "sampled", "parametric"]
Normaliser = Literal["first", "ema", "exact"]
Memory = Literal["momentum", "proximal"]
MemoryInit = Literal["sphere", "uniform", "outputs"]
SupervisedLoss = Literal["softmax", "square"]
Sampling = Literal["uniform", "cluster_then_member", "natural", "weighted"]
Schedule = Literal["constant", "cosine", "steps", "inverse"]
Crop = Literal["random_resized", "random", "center"]
Flip = Literal["none", "horizontal", "vertical", "both"]
Precision = Literal["auto", "float32", "bfloat16"]
EmptyClusters = Literal["split", "copy", "halve"]
Device = Literal["auto", "cpu", "cuda"]

FULL_SCORES = 25_000_000
"""Scores of images and codes that `assignment = full` holds at once: 5,000 images and their codes take two seconds. More
images are matched in groups."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DataFacts:
    """What a recipe may look at before it decides: never the pixels, only the shape of the problem."""

    count: int
    """Number of readable images."""
    channels: int
    """Channels of every image after decoding."""
    height: int
    """Median height in pixels."""
    width: int
    """Median width in pixels."""
    is_colour: bool
    """Whether the channels are red, green and blue, so that colour operations mean something."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the run will be trained."""


class Config(BaseModel):
    """Every setting of a run. Sizes are in pixels, times in epochs, rates per step; `lr` and `weight_decay` as the value itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    recipe: str = Field(default="default", description="name of the recipe this configuration began as")
    method: MethodName = Field(default="deepcluster", description="what a target is and when it is rewritten")
    seed: int = Field(default=0, ge=0, description="seed of everything random")

    # Network
    backbone: str = Field(
        default="resnet18", description="network without head; `unlabeled train --help` lists the known names"
    )
    stem: Stem = Field(
        default="rgb", description="fixed front of the network: the image, its Sobel gradients, or its high frequencies"
    )
    normalize: Normalization = Field(
        default="dataset", description="subtract the channel means of the data, or every image's own mean"
    )
    head: Head = Field(default="linear", description="what is put on the feature: ReLU and a linear layer, or no ReLU")
    data_init: bool = Field(
        default=False,
        description="first weights from the data: layers begin with outputs equally strong and learn equally fast",
    )
    init: str = Field(
        default="none",
        description="weights to begin from: none, lite0 (EfficientNet-Lite0 with ImageNet weights; extra `lite0`), the folder of a "
        "run, or a file of published weights. Alone it uses the network as it is; --epochs N adapts it",
    )
    freeze_norm: bool = Field(
        default=False, description="keep statistics and scales of batch normalization as they are; on with --init"
    )
    sync_batch_norm: bool = Field(default=True, description="share batch statistics across ranks")

    # Views
    image_size: Count = Field(default=64, description="side of a training view, pixels")
    crop: Crop = Field(default="random_resized", description="how a view is cut from an image")
    crop_area: tuple[Fraction, Fraction] = Field(
        default=(0.2, 1.0), description="least and largest share of the image a view covers"
    )
    crop_ratio: tuple[Positive, Positive] = Field(
        default=(3 / 4, 4 / 3), description="least and largest width / height of a crop"
    )
    flip: Flip = Field(default="horizontal", description="mirror views, each direction with probability one half")
    brightness: float = Field(default=0.4, ge=0, le=10, description="strength of the brightness jitter")
    contrast: float = Field(default=0.4, ge=0, le=10, description="strength of the contrast jitter")
    saturation: float = Field(
        default=0.4, ge=0, le=10, description="strength of the saturation jitter; colour images only"
    )
    hue: float = Field(default=0.1, ge=0, le=0.5, description="strength of the hue jitter, turns; colour images only")
    grey: Fraction = Field(default=0.2, description="probability of a grey view; colour images only")
    blur: Fraction = Field(default=0.0, description="probability of a Gaussian blur")
    store_size: Count = Field(
        default=96, description="short side at which decoded images are kept, pixels; never enlarged"
    )
    resize: Count = Field(
        default=73, description="short side before the central crop of the view that is clustered and embedded, pixels"
    )
    mean: tuple[Fraction, ...] | None = Field(
        default=None, description="channel means in [0, 1]; from the data where not given"
    )
    std: tuple[Positive, ...] | None = Field(
        default=None, description="channel standard deviations in [0, 1]; from the data where not given"
    )

    # Clustering
    clustering: Clustering = Field(default="kmeans", description="what turns features into pseudo-labels")
    num_clusters: Count = Field(default=100, description="k of k-means; more clusters than kinds of things is right")
    final_clusters: Count | None = Field(
        default=None,
        description="clusters of the finished run, those people look at; num_clusters, those of training, where not given",
    )
    feature: Feature = Field(
        default="before_relu",
        description="what is clustered: features before or after their last ReLU, of backbones that end in a perceptron",
    )
    graph_neighbors: Count = Field(default=5, description="neighbours of each image in the graph of pic and cliques")
    bandwidth: Positive = Field(default=0.2, description="sigma of the Gaussian affinity of pic")
    damping: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.001, description="share of the graph in each power iteration of pic"
    )
    pic_iterations: Count = Field(default=200, description="power iterations of pic at most; it stops when settled")
    singletons: Singletons = Field(
        default="attach", description="images that pic leaves alone: attach to a neighbour, keep, or drop from training"
    )
    subset: int = Field(
        default=0,
        ge=0,
        description="images that are sampled and trained on, in deepcluster also clustered; 0 takes all",
    )
    subset_mode: SubsetMode = Field(
        default="resampled",
        description="the same subset always (the only way of the other methods), or in deepcluster a new one each clustering, or "
        "new ones of clusters made on all images",
    )
    loss_subset: int = Field(
        default=0,
        ge=0,
        description="classes the softmax of deepcluster and supervised looks at in a batch, for very many; 0 is exact",
    )
    pca_dims: int = Field(
        default=256, ge=0, description="dimensions kept before clustering; 0 keeps all and does not rotate"
    )
    whiten: bool = Field(default=True, description="divide the kept dimensions by their standard deviation")
    normalize_rows: bool = Field(default=True, description="scale every feature to length one before clustering")
    kmeans_iterations: Count = Field(default=20, description="Lloyd iterations")
    empty_clusters: EmptyClusters = Field(default="split", description="how an empty cluster is refilled")
    reassign_every: Positive = Field(
        default=1.0,
        description="epochs between two clusterings; where it is no whole number, an epoch is that share of the images",
    )
    sampling: Sampling = Field(default="uniform", description="how images are drawn, given their pseudo-labels")

    # Noise As Targets and instance discrimination
    embedding_dims: Count = Field(
        default=128, description="length of the outputs that nat compares with codes and instance with its memory bank"
    )
    targets: Targets = Field(
        default="sphere", description="codes of nat: random points of the sphere, or the basis vectors"
    )
    num_codes: int = Field(default=0, ge=0, description="different codes of nat; 0 gives every image its own")
    permute_every: int = Field(
        default=3,
        ge=0,
        description="epochs from one in which nat matches outputs and codes to the next; 0 never matches",
    )
    assignment: AssignmentRule = Field(
        default="permutation",
        description="how nat matches: one to one in a batch, one to one over all images (in groups of 5,000), or freely "
        "(which collapses)",
    )
    match: Match = Field(
        default="rank", description="what nat matches at once: the batch of each process, or of all together"
    )
    loss_reduction: Reduction = Field(
        default="sum",
        description="the square loss of a batch; the learning rate that goes with `mean` is larger by its size",
    )
    objective: Objective = Field(
        default="softmax",
        description="loss of instance: softmax over the whole bank, NCE, softmax over some, or learned weights in its place",
    )
    num_negatives: Count = Field(default=4096, description="rows of the bank that nce and sampled compare with")
    temperature: Positive = Field(default=0.07, description="divides the similarities of instance")
    normaliser: Normaliser = Field(
        default="first", description="Z of nce: from the first batch, a moving average, or summed over the whole bank"
    )
    memory: Memory = Field(
        default="momentum",
        description="rows of the bank: an average over visits, or the last visit with a penalty on leaving it",
    )
    memory_momentum: float = Field(default=0.5, ge=0, lt=1, description="share of a row that `memory momentum` keeps")
    memory_init: MemoryInit = Field(
        default="sphere",
        description="first rows of the bank: random points of the sphere, random coordinates up to sqrt(3 / dims) (of a length "
        "near 1), or the outputs of the untrained network",
    )
    proximal_weight: float = Field(default=10.0, ge=0, description="weight of the penalty of `memory proximal`")
    supervised_loss: SupervisedLoss = Field(
        default="softmax", description="loss of the supervised control: softmax, or square distance of unit outputs"
    )

    # Optimisation
    epochs: int = Field(
        default=60, ge=0, description="passes over as many images as the folder holds; 0 leaves the network random"
    )
    batch_size: Count = Field(default=128, description="images per step and process")
    accumulate: Count = Field(
        default=1, description="steps whose gradients make one move of the weights, as one large batch would"
    )
    lr: Positive = Field(default=0.05, description="learning rate of the body")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of the body")
    weight_decay: float = Field(default=1e-5, ge=0, description="weight decay of body and head")
    head_lr: Positive | None = Field(
        default=None,
        description="learning rate of the head, lowered where it is not stable; the body's, as it is, where not given",
    )
    head_momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of the head; the papers' head has none")
    schedule: Schedule = Field(default="constant", description="how the learning rate changes")
    schedule_steps: tuple[Count, ...] = Field(
        default=(), description="epochs after which `steps` divides the learning rate by ten"
    )
    inverse_start: float = Field(
        default=0.0, ge=0, description="epochs after which `inverse` begins to lower the learning rate"
    )
    inverse_gamma: float = Field(
        default=0.0, ge=0, description="gamma of `inverse`: t epochs after its start the rate is divided by 1 + gamma t"
    )
    warmup: float = Field(default=0.0, ge=0, description="epochs of linear warm-up")
    precision: Precision = Field(default="auto", description="bfloat16 autocast where the hardware has it, or float32")
    compile: bool = Field(default=False, description="torch.compile the network; it does not pay on CPU")

    # Watching
    evaluate_every: int = Field(
        default=10, ge=0, description="epochs between kNN checks where labels were given; 0 only at the end"
    )
    save_minutes: Positive = Field(
        default=10.0, description="longest time between two checkpoints inside an epoch, minutes"
    )
    snapshot_every: int = Field(
        default=0,
        ge=0,
        description="epochs between copies of the run that stay, each a run folder under RUN/snapshots; 0 keeps none",
    )
    keep_checkpoints: int = Field(
        default=3, ge=2, description="rolling checkpoints kept; two or more, so that a damaged one has an elder"
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> Config:
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (least, largest), got ({low}, {high}); swap the two")
        if self.crop_area[0] <= 0:
            raise ValueError(f"crop_area must begin above 0, got {self.crop_area}; 0.2 is a good beginning")
        if self.resize < self.image_size:
            raise ValueError(
                f"resize ({self.resize:,}) must be at least image_size ({self.image_size:,}); raise the one or lower the other"
            )
        if self.store_size < self.image_size:
            raise ValueError(
                f"store_size ({self.store_size:,}) must be at least image_size ({self.image_size:,}); raise the one or lower "
                "the other"
            )
        if list(self.schedule_steps) != sorted(set(self.schedule_steps)):
            raise ValueError(f"schedule_steps must rise, got {self.schedule_steps}; sort them and give each once")
        if self.targets == "onehot" and not self.num_codes:
            raise ValueError("targets = onehot needs num_codes, the length of the outputs; try 1000")
        if self.loss_subset and self.sampling == "weighted":
            raise ValueError("loss_subset and sampling 'weighted' do not go together; sample uniformly over clusters")
        if self.subset and self.subset_mode != "same" and self.method != "deepcluster":
            raise ValueError(
                f"subset_mode ('{self.subset_mode}') must be 'same' with method '{self.method}', which makes no clusters anew: "
                "set it to 'same', which trains on one fixed subset"
            )
        if self.schedule == "inverse" and not self.inverse_gamma:
            raise ValueError(
                "schedule = inverse needs an inverse_gamma above 0, got 0; NAT's classifier has 0.3 an epoch"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: give both or neither")
        return self

    @property
    def clustering_period(self) -> int:
        """Epochs between two clusterings: `reassign_every` where that is whole, else 1, and the epochs are of that length."""
        return int(self.reassign_every) if self.reassign_every.is_integer() else 1

    def clusters_before(self, epoch: int) -> bool:
        """Whether `epoch` (from 0) of a DeepCluster run begins with a clustering: not a last stretch shorter than the others."""
        period = self.clustering_period
        return epoch % period == 0 and (epoch == 0 or epoch + period <= self.epochs)

    @property
    def shown_clusters(self) -> int:
        """Clusters of the finished run."""
        return self.final_clusters or self.num_clusters

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed, checked as a whole again; unknown names list the known ones."""
        for name in changes:
            if name not in Config.model_fields:
                raise ConfigError(unknown_name("setting", name, Config.model_fields))
        return _validated(self.model_dump() | changes)

    def save(self, path: Path) -> None:
        """Write as JSON that `load` reads back to an equal value."""
        path.write_text(self.model_dump_json(indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> Config:
        """Read what `save` wrote; every problem is one sentence that names the file."""
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"no configuration at {path}; give the folder that `unlabeled train --out` wrote."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not readable as JSON ({str(error)[:200]}).") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold one JSON object, got {type(values).__name__}.")
        for name in values:
            if name not in Config.model_fields:
                raise ConfigError(f"{path}: {unknown_name('setting', name, Config.model_fields)}")
        return _validated(values, where=f"{path}: ")


def _short(value: Any, *, plain: bool = False, most: int = 200) -> str:
    """A value as it stands in an error, cut where it is very long."""
    # The first items are enough: a damaged file may hold millions.
    text = value if plain else repr(value[:20] if isinstance(value, (tuple, list, str)) else value)
    return text if len(text) <= most else f"{text[:most]} …"


def _validated(values: dict[str, Any], where: str = "") -> Config:
    # JSON has no tuples, strict mode accepts nothing else for them.
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"][:1])
        message = _short(problem["msg"].removeprefix("Value error, "), plain=True, most=500)
        if not name:
            raise ConfigError(f"{where}{message}.") from None
        wanted = message.lower().replace("input should", "must")
        for there, ours in (("greater than or equal to", "at least"), ("less than or equal to", "at most")):
            wanted = wanted.replace(there, ours)
        one = f"each of its numbers {wanted}, got {problem['input']!r}" if len(problem["loc"]) > 1 else f"it {wanted}"
        raise ConfigError(
            f"{where}{name} = {_short(values[name])} does not fit: {_short(one, plain=True)}; give such a value, or leave it out "
            "for the recipe's."
        ) from None
