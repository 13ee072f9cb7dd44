"""Published and recommended experiments, one function each.

A recipe looks at the facts of the data (how many images, how large, on what device) and returns a complete `Config`. Its
docstring says where it comes from, what it costs, what to expect and how to run it. Single fields are changed on the
command line or with `Config.replace`.
"""

from __future__ import annotations

from collections.abc import Callable

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError, unknown_name

Recipe = Callable[[DataFacts], Config]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def default(facts: DataFacts) -> Config:
    """What we recommend for a folder of your own images: DeepCluster, sized by the data.

    Small pictures (short side up to 40 pixels) go to `small_images`; others are trained at 64 pixels on a CPU and at 128
    on a GPU. Clusters: about one for every thirty images, between 20 and 1,000, so that there are more clusters than kinds
    of things (DeepCluster, figure 2c: over-segmentation helps). Cost: see RESULTS.md, "Equal minutes".

    `unlabeled train FOLDER --out RUN`
    """
    short_side = min(facts.height, facts.width)
    if short_side <= 40:
        return small_images(facts).replace(recipe="default")
    size = 128 if facts.device == "cuda" and short_side >= 128 else 64
    return Config(
        recipe="default",
        backbone="resnet18",
        image_size=size,
        store_size=size * 2,
        resize=round(size * 8 / 7),
        num_clusters=clusters_for(facts.count),
        reassign_every=epochs_per_assignment(facts.count, 64),
        epochs=60,
        batch_size=64,
        lr=0.05,
        schedule="cosine",
        warmup=1.0,
        crop_area=(0.2, 1.0),
    )


def small_images(facts: DataFacts) -> Config:
    """DeepCluster for pictures of CIFAR's size, about 32 pixels.

    At least 100 clusters where the data allow (with k = 10 on CIFAR-10 the clusters stay unrelated to the classes: spec,
    trap 17), a backbone for small maps, the colour and crop augmentation of Instance Discrimination. On a CPU five
    convolutions, on a GPU the ResNet-18 of Wu et al. with its 3 x 3 stem.

    `unlabeled train FOLDER --out RUN --recipe small_images`
    """
    on_gpu = facts.device == "cuda"
    return Config(
        recipe="small_images",
        backbone="resnet18_small" if on_gpu else "alexnet_small",
        image_size=32,
        store_size=40,
        resize=32,
        num_clusters=clusters_for(facts.count),
        reassign_every=epochs_per_assignment(facts.count, 128),
        epochs=100 if on_gpu else 40,
        batch_size=128,
        lr=0.05,
        schedule="cosine",
        warmup=1.0,
        crop_area=(0.2, 1.0),
        hue=0.1,
    )


def demo(facts: DataFacts) -> Config:
    """What `unlabeled demo` runs: `small_images`, for a few thousand crops of photographs and a few minutes on two cores.

    Expected: see RESULTS.md, "Demonstration".

    `unlabeled demo`
    """
    return small_images(facts).replace(recipe="demo", backbone="alexnet_small")


def paper_deepcluster_alexnet(facts: DataFacts) -> Config:
    """DeepCluster with AlexNet as published: Caron et al., ECCV 2018, sections 3.3-3.4, tables 1-2.

    Sobel input, 10,000 clusters, k-means every epoch on PCA-256 whitened unit rows, SGD 0.05 with momentum 0.9 and weight
    decay 1e-5, batch 256, 500 epochs (the released code stops at 200). Where the paper is silent this follows the released
    code: constant learning rate, head without momentum, features before the last ReLU, crop area 0.08-1, 20 iterations.
    Expected on ImageNet: 41.0 % with a linear probe on conv3, 73.7 mAP on VOC 2007 fine-tuned. Cost: 12 days on one P100.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_deepcluster_alexnet --batch-size 32`
    """
    return Config(
        recipe="paper_deepcluster_alexnet",
        backbone="alexnet",
        stem="sobel",
        image_size=224,
        store_size=256,
        resize=256,
        crop_area=(0.08, 1.0),
        flip="horizontal",
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        grey=0.0,
        mean=IMAGENET_MEAN if facts.channels == 3 else None,
        std=IMAGENET_STD if facts.channels == 3 else None,
        num_clusters=10_000,
        pca_dims=256,
        reassign_every=1,
        epochs=500,
        batch_size=256,
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-5,
        schedule="constant",
    )


def paper_deepcluster_vgg16(facts: DataFacts) -> Config:
    """DeepCluster with VGG-16 as published: Caron et al., ECCV 2018, tables 4-5.

    As `paper_deepcluster_alexnet` with VGG-16 and batch normalisation. Expected: 65.9 mAP on VOC 2007 detection, 61.0 on
    Oxford5k retrieval. The paper gives no cost; one step is about twenty times AlexNet's.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_deepcluster_vgg16 --batch-size 32`
    """
    return paper_deepcluster_alexnet(facts).replace(recipe="paper_deepcluster_vgg16", backbone="vgg16")


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (default, small_images, demo, paper_deepcluster_alexnet, paper_deepcluster_vgg16)
}


def configure(name: str, facts: DataFacts, changes: dict[str, object]) -> Config:
    """The recipe called `name` for these data, with single fields changed.

    Raises:
        ConfigError: unknown recipe or field, or settings that do not go together.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES))
    config = RECIPES[name](facts)
    if "image_size" in changes:
        # The sizes go together: one that was not named follows, in the recipe's proportion.
        scale = int(str(changes["image_size"])) / config.image_size
        for field in ("resize", "store_size"):
            changes.setdefault(field, round(getattr(config, field) * scale))
    return config.replace(**changes) if changes else config


def clusters_for(count: int) -> int:
    """More clusters than kinds of things, and enough images in each: one for every thirty images, 20 to 1,000."""
    return max(min(20, count), min(1000, count // 30))


def epochs_per_assignment(count: int, batch_size: int) -> int:
    """A fresh head needs a few hundred steps before its gradient says something: small sets reassign less often."""
    return max(1, min(10, round(150 * batch_size / max(count, 1))))
