"""Published and recommended experiments, one function each.

A recipe looks at the facts of the data (how many images, how large, on what device) and returns a complete `Config`. Its
docstring says where it comes from, what it costs, what to expect and how to run it. Single fields are changed on the
command line or with `Config.replace`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError, unknown_name

Recipe = Callable[[DataFacts], Config]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.4, "grey": 0.2}
NO_COLOUR: dict[str, Any] = dict.fromkeys(JITTER, 0.0)
_PIC: dict[str, Any] = {"graph_neighbors": 5, "bandwidth": 0.2, "damping": 0.001, "singletons": "attach"}
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
        epochs=epochs_for(facts),
        batch_size=batch_for(facts.count, 64),
        lr=0.05,
        head_lr=1.0,
        crop_area=(0.3, 1.0),
    )


def small_images(facts: DataFacts) -> Config:
    """DeepCluster for pictures of CIFAR's size, about 32 pixels.

    At least 100 clusters where the data allow (with k = 10 on CIFAR-10 the clusters stay unrelated to the classes: spec,
    trap 17), a backbone for small maps, the colour augmentation of Instance Discrimination with less severe crops. On a CPU
    five convolutions, on a GPU the ResNet-18 of Wu et al. with its 3 x 3 stem. The head learns twenty times faster than the
    body: in the few hundred steps it lives for on a small set, the papers' rate would leave it near its random beginning
    (LOG.md, 2026-11-20).

    `unlabeled train FOLDER --out RUN --recipe small_images`
    """
    on_gpu = facts.device == "cuda"
    return Config(
        recipe="small_images",
        backbone="resnet18_small" if on_gpu else "alexnet_small",
        image_size=32,
        store_size=40,
        resize=32,
        num_clusters=clusters_for(facts.count, least=100),
        reassign_every=epochs_per_assignment(facts.count, 128),
        epochs=epochs_for(facts),
        batch_size=batch_for(facts.count, 128),
        lr=0.05,
        head_lr=1.0,
        crop_area=(0.4, 1.0),
    )


def demo(facts: DataFacts) -> Config:
    """What `unlabeled demo` runs: `small_images`, for a few thousand crops of photographs and a few minutes on two cores.

    Expected: see RESULTS.md, "Demonstration".

    `unlabeled demo`
    """
    return small_images(facts).replace(recipe="demo", backbone="alexnet_small", epochs=44)


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


def paper_pic_alexnet(facts: DataFacts) -> Config:
    """DeepCluster with Power Iteration Clustering as in the thesis, section 5, table 5.1, row PIC-ImNet-Sob.

    As `paper_deepcluster_alexnet` with clusters from the graph of 5 neighbours: sigma 0.2, damping 0.001, 200 iterations,
    singletons attached to their nearest neighbour's cluster (section 4.6); learning rate 0.05, weight decay 1e-5, 500
    epochs. The order of Gaussian and symmetrisation is that of the released code. `num_clusters` serves only to sort the
    images of the finished run. Expected on ImageNet: a perceptron on frozen features 45.9 %, linear on conv3 40.8 %.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_pic_alexnet --batch-size 32`
    """
    return paper_deepcluster_alexnet(facts).replace(recipe="paper_pic_alexnet", clustering="pic", **_PIC)


def paper_thesis_alexnet(facts: DataFacts) -> Config:
    """DeepCluster with k-means as in the thesis, section 5, table 5.1: learning rate 0.02, else as the paper's.

    For its model on colour: `--stem rgb --num-clusters 1000 --weight-decay 1e-6`.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_thesis_alexnet --batch-size 32`
    """
    return paper_deepcluster_alexnet(facts).replace(recipe="paper_thesis_alexnet", lr=0.02)


def small_pic(facts: DataFacts) -> Config:
    """DeepCluster with Power Iteration Clustering for a folder of your own images, sized as `default`.

    A wider bandwidth than the paper's 0.2, in which few thousand images leave each row nearly alone.

    `unlabeled train FOLDER --out RUN --recipe small_pic`
    """
    return default(facts).replace(recipe="small_pic", clustering="pic", **(_PIC | {"bandwidth": 0.5}))


def small_nat(facts: DataFacts) -> Config:
    """Noise As Targets for a folder of your own images, sized as `default`.

    The square loss is a sum over the batch, so the learning rate 0.01 goes with no momentum and no weight decay (spec,
    trap 2); codes of 128 dims, traded in every third epoch. Cost: as `default` without the clustering.

    `unlabeled train FOLDER --out RUN --method nat`
    """
    return _long_lived_head(facts).replace(
        recipe="small_nat",
        method="nat",
        embedding_dims=128,
        permute_every=3,
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        warmup=0.0,
    )


def small_instance(facts: DataFacts) -> Config:
    """Instance Discrimination for a folder of your own images, sized as `default`.

    The exact softmax over the whole bank, which on small sets costs no more than sampling from it, temperature 0.1, a
    cosine in place of the paper's two drops. Cost: as `default` without the clustering.

    `unlabeled train FOLDER --out RUN --method instance`
    """
    return _long_lived_head(facts).replace(
        recipe="small_instance",
        method="instance",
        objective="softmax",
        temperature=0.1,
        lr=0.03,
        head_momentum=0.9,
        weight_decay=5e-4,
    )


def small_supervised(facts: DataFacts) -> Config:
    """The yardstick: the network and views of `default`, told the true labels (NAT tables 1-2, DeepCluster tables 1-5).

    `unlabeled train FOLDER --out RUN --method supervised --labels folder`
    """
    return _long_lived_head(facts).replace(recipe="small_supervised", method="supervised", head_momentum=0.9, weight_decay=5e-4)


def _long_lived_head(facts: DataFacts) -> Config:
    # What `default` sets for a head that is made anew every few epochs does not suit one that is trained throughout.
    return default(facts).replace(head_lr=None, schedule="cosine", warmup=1.0, crop_area=(0.2, 1.0))


def random_network(facts: DataFacts) -> Config:
    """The other end of the scale: the network of `default` before its first step (DeepCluster table 2, "Random").

    Everything a run offers works on it: embed, cluster, search, evaluate. `--stem sobel` for the tables' Random-sobel.

    `unlabeled train FOLDER --out RUN --recipe random_network`
    """
    return default(facts).replace(recipe="random_network", epochs=0)


def paper_nat_alexnet(facts: DataFacts) -> Config:
    """Noise As Targets with AlexNet as published: Bojanowski and Joulin, ICML 2017, section 4, tables 3-4.

    Codes traded inside batches of 256 in every third epoch (section 4.1), Sobel input, one code per image. The paper is
    silent on most numbers; these are the released code's: 2,048 dims, batch normalisation in the perceptron, every image
    normalised by itself, random 224 of 256 and mirrored, SGD 0.01 without momentum or weight decay on a loss summed over
    the batch, constant for 100 epochs. The decay of the paper's section 3.3 is not in that code and not here.
    Expected on ImageNet: 36.0 % with a perceptron on frozen features, VOC 2007 56.7 (fc6-8) and 65.3 (all) mAP.
    Cost: 100 epochs of AlexNet and 10.5 GB of codes, drawn from the seed and not stored.

    `unlabeled train imagenet/train --out RUN --recipe paper_nat_alexnet`
    """
    return Config(
        recipe="paper_nat_alexnet",
        method="nat",
        backbone="alexnet_nat",
        stem="sobel_nat",
        normalize="image",
        image_size=224,
        store_size=256,
        resize=256,
        crop="random",
        flip="horizontal",
        **NO_COLOUR,
        embedding_dims=2048,
        targets="sphere",
        permute_every=3,
        assignment="permutation",
        match="rank",
        loss_reduction="sum",
        epochs=100,
        batch_size=256,
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        num_clusters=clusters_for(facts.count),
    )


def paper_npid_resnet18(facts: DataFacts) -> Config:
    """Instance Discrimination with ResNet-18 as published: Wu et al., CVPR 2018, tables 2-5.

    NCE with 4,096 negatives, temperature 0.07, 128 dims, SGD 0.03 divided by ten after 120 and 160 of 200 epochs, batch
    256. The paper does not say how views are made; crops of 0.2-1, jitter 0.4, grey 0.2 and mirroring are the released
    code's, and without them its numbers are out of reach (spec, trap 3). So are weight decay 1e-4, Z from the first
    batch, and rows averaged with momentum 0.5 in place of the paper's proximal term, whose weight is not in its text:
    `--memory proximal --proximal-weight W`. Unlike that code, rows begin with length one and colour operations come in
    random order before grey. Expected on ImageNet: kNN 41.0 % and 44.5 % with a linear probe on conv5.
    Cost: two to three days on the paper's eight GPUs for ResNet-50; a third of it here.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_npid_resnet18 --batch-size 32`
    """
    return Config(
        recipe="paper_npid_resnet18",
        method="instance",
        backbone="resnet18",
        image_size=224,
        store_size=256,
        resize=256,
        crop_area=(0.2, 1.0),
        flip="horizontal",
        **JITTER,
        mean=IMAGENET_MEAN if facts.channels == 3 else None,
        std=IMAGENET_STD if facts.channels == 3 else None,
        embedding_dims=128,
        objective="nce",
        num_negatives=4096,
        temperature=0.07,
        normaliser="first",
        memory="momentum",
        memory_momentum=0.5,
        epochs=200,
        batch_size=256,
        lr=0.03,
        momentum=0.9,
        head_momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        schedule_steps=(120, 160),
        num_clusters=clusters_for(facts.count),
    )


def paper_npid_resnet50(facts: DataFacts) -> Config:
    """As `paper_npid_resnet18` with ResNet-50. Expected: kNN 46.5 % (46.8 in the code's notes), 54.0 % linear on conv5.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_npid_resnet50 --batch-size 32`
    """
    return paper_npid_resnet18(facts).replace(recipe="paper_npid_resnet50", backbone="resnet50")


def paper_npid_alexnet(facts: DataFacts) -> Config:
    """As `paper_npid_resnet18` with AlexNet. Expected: kNN 31.3 %, 35.6 % linear on conv5.

    Neither the paper nor the code shows this network; it is DeepCluster's, with an output of 128 dims.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_npid_alexnet --batch-size 32`
    """
    return paper_npid_resnet18(facts).replace(recipe="paper_npid_alexnet", backbone="alexnet")


def paper_npid_vgg16(facts: DataFacts) -> Config:
    """As `paper_npid_resnet18` with VGG-16. Expected: kNN 33.9 %, 39.2 % linear on conv5.

    Neither the paper nor the code shows this network; it is DeepCluster's, with an output of 128 dims.

    `torchrun --nproc-per-node 8 -m unlabeled train imagenet/train --out RUN --recipe paper_npid_vgg16 --batch-size 32`
    """
    return paper_npid_resnet18(facts).replace(recipe="paper_npid_vgg16", backbone="vgg16")


def paper_npid_cifar(facts: DataFacts) -> Config:
    """Instance Discrimination on CIFAR-10 as published: Wu et al., CVPR 2018, table 1, row "Non-param softmax".

    The other rows: `--objective parametric`, or `--objective nce --num-negatives 1` (10, 512, 4096). The released code's
    where the paper is silent: temperature 0.1, batch 128, weight decay 5e-4, drops after 120 and 160 epochs, no
    mirroring, channel statistics that are not those of CIFAR-10's pixels.
    Expected: kNN 80.8 % (parametric 63.0; NCE 42.5, 63.4, 78.4, 80.4). Cost: 200 epochs of 390 steps.

    `unlabeled train cifar10/train --out RUN --recipe paper_npid_cifar`
    """
    return paper_npid_resnet18(facts).replace(
        recipe="paper_npid_cifar",
        backbone="resnet18_small",
        image_size=32,
        store_size=32,
        resize=32,
        flip="none",
        mean=CIFAR_MEAN if facts.channels == 3 else None,
        std=CIFAR_STD if facts.channels == 3 else None,
        objective="softmax",
        temperature=0.1,
        batch_size=128,
        weight_decay=5e-4,
    )


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        default,
        small_images,
        demo,
        paper_deepcluster_alexnet,
        paper_deepcluster_vgg16,
        paper_pic_alexnet,
        paper_thesis_alexnet,
        small_pic,
        small_nat,
        small_instance,
        small_supervised,
        random_network,
        paper_nat_alexnet,
        paper_npid_resnet18,
        paper_npid_resnet50,
        paper_npid_alexnet,
        paper_npid_vgg16,
        paper_npid_cifar,
    )
}


def configure(name: str, facts: DataFacts, changes: dict[str, Any]) -> Config:
    """The recipe called `name` for these data, with single fields changed.

    Raises:
        ConfigError: unknown recipe or field, or settings that do not go together.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES))
    if name in ("default", "demo"):
        # A method asked for by name brings the learning rate and momentum that belong to its loss.
        name = {"nat": "small_nat", "instance": "small_instance", "supervised": "small_supervised"}.get(
            str(changes.get("method")), name
        )
    config = RECIPES[name](facts)
    size = changes.get("image_size")
    if isinstance(size, int):
        # The sizes go together: one that was not named follows, in the recipe's proportion.
        scale = size / config.image_size
        for field in ("resize", "store_size"):
            changes.setdefault(field, round(getattr(config, field) * scale))
    return config.replace(**changes) if changes else config


def clusters_for(count: int, least: int = 20) -> int:
    """More clusters than kinds of things, and enough images in each: one for every thirty images, `least` to 1,000."""
    # Of very few images, `least` clusters would hold one or two each.
    return max(1, min(least, count // 3), min(1000, count // 30))


def epochs_for(facts: DataFacts) -> int:
    """About as many as show 200,000 views on a CPU (minutes) or 5,000,000 on a GPU, 20 to 200."""
    views = 5_000_000 if facts.device == "cuda" else 200_000
    return max(20, min(200, round(views / max(facts.count, 1))))


def batch_for(count: int, batch_size: int) -> int:
    """This batch size, or half of the images where they are so few: an epoch needs a step or two."""
    return max(1, min(batch_size, count // 2))


def epochs_per_assignment(count: int, batch_size: int) -> int:
    """A fresh head needs about a hundred steps before its gradient says something: small sets reassign less often."""
    return max(1, min(10, round(120 * batch_size / max(count, 1))))
