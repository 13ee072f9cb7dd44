"""What we recommend for your own images, sized by the data, and the yardsticks that belong beside it."""

from __future__ import annotations

from unlabeled.config import Config, DataFacts
from unlabeled.recipes.papers import NO_COLOUR, PIC
from unlabeled.recipes.sizing import batch_for, clusters_for, epochs_for, epochs_per_assignment


def default(facts: DataFacts) -> Config:
    """What we recommend for a folder of your own images: DeepCluster, sized by the data.

    Small pictures (short side up to 40 pixels) go to `small_images`. On a CPU larger ones do too, reduced to views of 32
    pixels: in equal minutes five convolutions that see four times as many views beat a ResNet-18 at 64 pixels by far
    (LOG.md, 2026-11-20). On a GPU they are trained on a ResNet-18 at 64 or 128 pixels. Clusters: about one for every thirty
    images, so that there are more clusters than kinds of things (DeepCluster, figure 2c: over-segmentation helps). Cost: see
    RESULTS.md, "Equal minutes".

    `unlabeled train FOLDER --out RUN`
    """
    short_side = min(facts.height, facts.width)
    if short_side <= 40:
        return small_images(facts).replace(recipe="default")
    if facts.device == "cpu":
        return small_images(facts).replace(recipe="default", store_size=64, resize=36)
    size = 128 if short_side >= 128 else 64
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

    At least 100 clusters in training where the data allow (with k = 10 on CIFAR-10 the clusters stay unrelated to the
    classes: spec, trap 17), and in the finished run one for every thirty images, ten or more;
    a backbone for small maps, the colour augmentation of Instance Discrimination with less severe crops. On a CPU
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
        final_clusters=clusters_for(facts.count, least=10),
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


def small_pic(facts: DataFacts) -> Config:
    """DeepCluster with Power Iteration Clustering for a folder of your own images, sized as `default`.

    A wider bandwidth than the paper's 0.2, in which few thousand images leave each row nearly alone. Measured: 3,000
    CIFAR-10 images at 16 pixels, 12 epochs with clusters every 4, one seed: kNN .397, untrained .319 (LOG.md, 2026-11-20);
    5,000 pictures of tiny-imagenet-10, 40 epochs, one seed: .611, untrained .481, k-means .623 (RESULTS.md).

    `unlabeled train FOLDER --out RUN --recipe small_pic`
    """
    return default(facts).replace(recipe="small_pic", clustering="pic", **(PIC | {"bandwidth": 0.5}))


def small_nat(facts: DataFacts) -> Config:
    """Noise As Targets for a folder of your own images, sized as `default`.

    Images are matched with codes all at once, every third epoch (more than 5,000 in groups, other ones each time), not inside
    their batch as in the paper, and the codes have 16 dims: points so many lie close together on so small a sphere, so that
    like images can hold like codes. The square loss is a sum over the batch, so the rate goes with no momentum
    and no weight decay (spec, trap 2). Views are cropped and mirrored alone, as in the paper.

    Measured on 5,000 pictures of tiny-imagenet-10, one seed, 1,000 held out (standard error .016), untrained .481: matched at
    once in 16 dims .555 after 24 epochs and .557 after 40, in 64 dims .546 after 16; inside the batch in 128 dims .520 after
    24 and .522 after 40; rate 0.003 or colour jitter was no better. On 10,000 images of CIFAR-10, 2,000 others held out
    (.011), untrained .406: in two groups .466 after 24 epochs, inside the batch .405 (LOG.md). Cost: as `default` without
    the clustering, a tenth to a fifth more for the matching.

    `unlabeled train FOLDER --out RUN --method nat`
    """
    return _long_lived_head(facts).replace(
        recipe="small_nat",
        method="nat",
        assignment="full",
        embedding_dims=16,
        permute_every=3,
        batch_size=batch_for(facts.count, 64),
        lr=0.001,
        momentum=0.0,
        weight_decay=0.0,
        warmup=0.0,
        crop_area=(0.4, 1.0),
        **NO_COLOUR,
    )


def small_instance(facts: DataFacts) -> Config:
    """Instance Discrimination for a folder of your own images, sized as `default`.

    The exact softmax over the whole bank, which on small sets costs no more than sampling from it, temperature 0.1, a
    cosine in place of the paper's two drops. The bank begins as the outputs of the untrained network: from random rows the
    loss begins far above ln N. Small batches, because a few thousand images give few steps; crops and mirror alone. Measured
    at its full length on 5,000 pictures of tiny-imagenet-10, one seed, 1,000 held out (standard error .016): kNN .544, .589,
    .595, .605, .596 after 8, 16, 24, 32, 40 epochs, untrained .481. On 3,000 CIFAR-10 images twelve epochs were hardly enough
    (.381, untrained .367); with the paper's views and batch 128 it was .292 after 6; bank, batch and views were changed
    together, so what of it is whose is not known (LOG.md).
    For many images take the paper's views: `--brightness 0.4 --contrast 0.4 --saturation 0.4 --hue 0.1 --grey 0.2`.
    Cost: as `default` without the clustering.

    `unlabeled train FOLDER --out RUN --method instance`
    """
    return _long_lived_head(facts).replace(
        recipe="small_instance",
        method="instance",
        objective="softmax",
        temperature=0.1,
        memory_init="outputs",
        batch_size=batch_for(facts.count, 32 if facts.device == "cpu" else 128),
        lr=0.03,
        head_momentum=0.9,
        weight_decay=5e-4,
        crop_area=(0.4, 1.0),
        **NO_COLOUR,
    )


def small_supervised(facts: DataFacts) -> Config:
    """The yardstick: the network and views of `default`, told the true labels (NAT tables 1-2, DeepCluster tables 1-5).

    `unlabeled train FOLDER --out RUN --method supervised --labels folder`
    """
    return _long_lived_head(facts).replace(
        recipe="small_supervised", method="supervised", head_momentum=0.9, weight_decay=5e-4
    )


def _long_lived_head(facts: DataFacts) -> Config:
    # What `default` sets for a head that is made anew every few epochs does not suit one that is trained throughout.
    return default(facts).replace(head_lr=None, schedule="cosine", warmup=1.0, crop_area=(0.2, 1.0))


def random_network(facts: DataFacts) -> Config:
    """The other end of the scale: the network of `default` before its first step (DeepCluster table 2, "Random").

    Everything a run offers works on it: embed, cluster, search, evaluate. `--stem sobel` for the tables' Random-sobel.

    `unlabeled train FOLDER --out RUN --recipe random_network`
    """
    return default(facts).replace(recipe="random_network", epochs=0)
