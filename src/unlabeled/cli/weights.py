"""The verbs that carry weights in and out: import, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from unlabeled.cli.console import app, opened_run, output
from unlabeled.config import Device
from unlabeled.progress import counted

Format = Literal["safetensors", "torchvision", "onnx", "torch-export", "hub"]


@app.command(name="import", usage="Usage: unlabeled import FILE --out RUN [OPTIONS]")
def import_weights(
    file: Path,
    *,
    out: Path,
    data: Path | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    mean: Annotated[tuple[float, float, float] | None, Parameter(consume_multiple=True)] = None,
    std: Annotated[tuple[float, float, float] | None, Parameter(consume_multiple=True)] = None,
    num_clusters: int | None = None,
    device: Device = "auto",
    cache: Path | None = None,
    if_exists: Literal["refuse", "replace"] = "refuse",
) -> None:
    """Make a run of published weights, which every verb can then use. Nothing in the file is executed.

    Known: DeepCluster AlexNet and VGG-16 (with and without Sobel), instance discrimination ResNet-18 and ResNet-50 with
    the memory bank, DeepCluster-v2 and SwAV ResNet-50, resnet18, resnet50 and resnet101 of torchvision and timm,
    torchvision's vgg16_bn, and what `export --format safetensors` wrote. Which it is, the file itself says.

    Parameters
    ----------
    file
        File with the weights: .pth, .pt, .pth.tar or .safetensors.
    out
        Folder of the run.
    data
        Images to embed and cluster at once: `search`, `cluster` and `report` then look among these. `embed`, `evaluate`
        with DATA and `export` do without.
    backbone
        The network that the file must hold [default: whichever it holds].
    image_size
        Side of the view, pixels [default: what the kind was tested with, mostly 224].
    resize
        Short side before the central crop, pixels [default: mostly 256].
    mean
        Channel means in [0, 1] [default: what the kind was trained with].
    std
        Channel standard deviations in [0, 1].
    num_clusters
        Clusters of the images of --data [default: by their number].
    device
        Where to compute.
    cache
        Folder for decoded images [default: the user's cache folder].
    if_exists
        What to do with a run that is already there.
    """
    from unlabeled import api

    asked = {"image_size": image_size, "resize": resize, "mean": mean, "std": std, "num_clusters": num_clusters}
    settings: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    run = api.import_weights(
        file, out, data=data, backbone=backbone, device=device, cache=cache, if_exists=if_exists, **settings
    )
    about, config = run.origin, run.config
    output.print(
        f"{about['kind']}: {config.backbone} with stem {config.stem}, views of {config.image_size} pixels", markup=False
    )
    if about["memory_bank_rows"]:
        output.print(
            f"Memory bank of {counted(about['memory_bank_rows'], 'image')} kept: evaluate knn-bank", markup=False
        )
    if about["left_out"]:
        output.print(f"Left out: {', '.join(about['left_out'])}", markup=False)
    known = "embed, search, cluster, evaluate, export" if data else "embed, evaluate PROTOCOL RUN DATA, export"
    output.print(f"Run: {out} (for {known})", markup=False)


@app.command(usage="Usage: unlabeled export RUN --format FORMAT --out FILE [OPTIONS]")
def export(run: Path, *, format: Format, out: Path, license: str = "other") -> None:
    """Write the trained backbone for other programs, with the preprocessing its images need beside it.

    All formats take float32 views [batch, channels, size, size] with values in [0, 1] (16-bit images: (v - low) / (high -
    low)), give one feature per image, and take any batch size. OUT.preprocessing.json has every number.

    Parameters
    ----------
    run
        Folder of the run.
    format
        safetensors: the whole backbone, normalisation inside; `unlabeled import` reads it back.
        torchvision: state dict that loads strictly into torchvision's resnet18, resnet50, resnet101 or vgg16_bn with
        num_classes = length of the feature, whose last layer is the identity; normalise before it.
        onnx: one file, normalisation inside, compared with torch by onnxruntime before it is written.
        torch-export: a program for torch.export.load, normalisation inside.
        hub: a folder for Hugging Face's hub, for timm where timm has the network; nothing is uploaded.
    out
        File to write (.safetensors, .pth, .onnx, .pt2), or a new folder for hub. A file there is replaced.
    license
        Licence of the weights in the model card of hub, as the hub names it (apache-2.0, cc-by-nc-4.0, …).
    """
    with opened_run(run, "cpu") as opened:
        written = opened.export(format, out, license=license)
    output.print(f"Written: {', '.join(str(file) for file in written.files)}", markup=False)
    output.print(f"Load it: {written.loading}", markup=False)
