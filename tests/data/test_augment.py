"""Views against torchvision: the same distributions of parameters, the same pixels for the same parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image

from unlabeled.config import Config
from unlabeled.data.augment import Parameters, Views, blur_taps, center, colour, draw
from unlabeled.data.resize import crop_cpu, crop_device
from unlabeled.errors import ConfigError
from unlabeled.randomness import generator

PLAIN = Views(image_size=24, resize=28)
JITTER = dataclasses.replace(PLAIN, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


class Pictures:
    """Images of one size, smooth with edges, as a store has them."""

    def __init__(self, count: int, height: int, width: int, channels: int = 3) -> None:
        coarse = torch.rand((count, channels, 7, 7), generator=generator(0, height, width))
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        smooth[:, :, height // 3 : height // 2] = (smooth[:, :, height // 3 : height // 2] > 0.5).float()
        self.uniform = (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        self.channels = channels

    def pixels(self, i: int) -> torch.Tensor:
        return self.uniform[i]

    @property
    def sizes(self) -> torch.Tensor:
        return torch.tensor(self.uniform.shape[1:3]).expand(len(self.uniform), 2)


def quantiles(values: torch.Tensor) -> torch.Tensor:
    return torch.quantile(values.double(), torch.linspace(0.02, 0.98, 13).double())


@pytest.mark.parametrize(("size", "area"), [((375, 500), (0.08, 1.0)), ((32, 32), (0.2, 1.0)), ((40, 400), (0.3, 1.0))])
def test_random_resized_crop_has_torchvisions_distribution(size: tuple[int, int], area: tuple[float, float]) -> None:
    views = dataclasses.replace(PLAIN, crop_area=area)
    count = 6000
    box = draw(views, torch.tensor(size).expand(count, 2), generator(0)).box
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    theirs = torch.tensor([T.RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3]) for _ in range(count)])
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / (size[0] * size[1]),
        lambda b: b[:, 3] / b[:, 2],
        lambda b: (b[:, 0] + b[:, 2] / 2) / size[0],
        lambda b: (b[:, 1] + b[:, 3] / 2) / size[1],
    ):
        torch.testing.assert_close(quantiles(measure(box)), quantiles(measure(theirs)), atol=0.03, rtol=0.05)
    assert (box[:, :2] >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= torch.tensor(size)).all()
    assert (box == box.round()).all()


def test_crops_that_cannot_fit_fall_back_as_torchvisions_do() -> None:
    views = dataclasses.replace(PLAIN, crop_area=(1.0, 1.0))
    for size in ((10, 100), (100, 10), (30, 37)):
        box = draw(views, torch.tensor([size]), generator(1)).box[0]
        torch.manual_seed(0)
        assert box.tolist() == pytest.approx(
            T.RandomResizedCrop.get_params(torch.empty(1, *size), [1.0, 1.0], [0.75, 4 / 3]),
            abs=3 if size == (30, 37) else 0,
        )


def test_jitter_factors_and_order_have_torchvisions_distribution() -> None:
    count = 8000
    params = draw(JITTER, torch.full((count, 2), 32), generator(0))
    torch.manual_seed(0)
    theirs = [T.ColorJitter.get_params([0.6, 1.4], [0.6, 1.4], [0.6, 1.4], [-0.1, 0.1]) for _ in range(count)]
    for column in range(4):
        values = torch.tensor([entry[1 + column] for entry in theirs])
        torch.testing.assert_close(quantiles(params.factors[:, column]), quantiles(values), atol=0.02, rtol=0)
    assert (params.order.sort(1).values == torch.arange(4)).all()
    _, counts = params.order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 0.7 * count / 24


def test_flip_grey_and_blur_happen_as_often_as_asked() -> None:
    views = dataclasses.replace(PLAIN, flip="both", grey=0.2, blur=0.5)
    sizes = torch.full((8000, 2), 32)
    params = draw(views, sizes, generator(0))
    assert params.flip.float().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert float(params.grey.float().mean()) == pytest.approx(0.2, abs=0.02)
    blurred = params.sigma[params.sigma > 0]
    assert len(blurred) / 8000 == pytest.approx(0.5, abs=0.02)
    assert float(blurred.min()) >= 0.1
    assert float(blurred.max()) <= 2
    for flip, columns in (("none", []), ("horizontal", [0]), ("vertical", [1])):
        happens = draw(dataclasses.replace(views, flip=flip), sizes, generator(0)).flip.any(0)
        assert happens.nonzero()[:, 0].tolist() == columns


def test_grey_and_hue_are_left_out_without_colours() -> None:
    views = dataclasses.replace(JITTER, grey=1.0, colour=False)
    params = draw(views, torch.full((4, 2), 32), generator(0))
    assert params.active == (True, True, False, False)
    assert not params.grey.any()


def test_parameters_depend_on_the_batch_and_not_on_how_it_is_cut() -> None:
    sizes = torch.tensor([(30, 40), (50, 20), (32, 32), (99, 98)])
    whole = draw(JITTER, sizes, generator(5))
    part = whole[slice(1, 3)]
    assert len(part) == 2
    assert torch.equal(part.box, whole.box[1:3])
    assert torch.equal(part.order, whole.order[1:3])


def torchvision_jitter(image: torch.Tensor, params: Parameters, i: int) -> torch.Tensor:
    brightness, contrast, saturation, hue = params.factors[i].tolist()
    for operation in params.order[i].tolist():
        if operation == 0:
            image = TF.adjust_brightness(image, brightness)
        elif operation == 1:
            image = TF.adjust_contrast(image, contrast)
        elif operation == 2:
            image = TF.adjust_saturation(image, saturation)
        else:
            image = TF.adjust_hue(image, hue)
    return TF.rgb_to_grayscale(image, 3) if params.grey[i] else image


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_each_image_is_coloured_as_torchvision_would(strength: float) -> None:
    pictures = Pictures(60, 20, 24)
    views = dataclasses.replace(
        PLAIN, brightness=strength, contrast=strength, saturation=2 * strength, hue=strength, grey=0.2
    )
    params = draw(views, pictures.sizes, generator(0))
    batch = pictures.uniform.permute(0, 3, 1, 2)
    ours = colour(batch, params)
    theirs = torch.stack([torchvision_jitter(image.float() / 255, params, i) for i, image in enumerate(batch)])
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, theirs, atol=1 / 255, rtol=0)


def test_one_operation_alone_and_colours_at_the_corners() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3).T.reshape(1, 3, 3, 9).expand(6, -1, -1, -1)
    params = draw(dataclasses.replace(PLAIN, hue=0.5), torch.full((6, 2), 9), generator(0))
    theirs = torch.stack(
        [TF.adjust_hue(image, float(f)) for image, f in zip(corners, params.factors[:, 3], strict=True)]
    )
    torch.testing.assert_close(colour(corners, params), theirs, atol=1e-5, rtol=0)


def test_blur_is_torchvisions() -> None:
    pictures = Pictures(5, 64, 40)
    params = draw(dataclasses.replace(PLAIN, blur=1.0), pictures.sizes, generator(0))
    batch = pictures.uniform.permute(0, 3, 1, 2).float() / 255
    taps = [blur_taps(40), blur_taps(64)]
    theirs = [TF.gaussian_blur(image, taps, [float(s)] * 2) for image, s in zip(batch, params.sigma, strict=True)]
    torch.testing.assert_close(colour(batch, params), torch.stack(theirs), atol=1e-4, rtol=0)
    assert (blur_taps(224), blur_taps(32)) == (23, 3)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels: int) -> None:
    pictures = Pictures(6, 20, 20, channels)
    views = dataclasses.replace(JITTER, blur=0.5, colour=False)
    params = draw(views, pictures.sizes, generator(0))
    view = colour(crop_device(pictures.uniform, params, 16), params)
    assert view.shape == (6, channels, 16, 16)
    assert 0 <= float(view.min()) <= float(view.max()) <= 1


def test_nothing_to_do_changes_nothing() -> None:
    pictures = Pictures(3, 16, 16)
    views = dataclasses.replace(PLAIN, image_size=16, resize=16, crop="center", flip="none")
    params = draw(views, pictures.sizes, generator(0))
    assert params.only_geometry
    same = pictures.uniform.permute(0, 3, 1, 2)
    assert torch.equal(crop_cpu(pictures, torch.arange(3), params, 16), same)
    torch.testing.assert_close(crop_device(pictures.uniform, params, 16), same / 255)
    torch.testing.assert_close(colour(same, params), same / 255)


@pytest.mark.parametrize(("height", "width", "size"), [(60, 80, 32), (32, 32, 32), (30, 24, 48)])
def test_both_routes_cut_what_pil_cuts(height: int, width: int, size: int) -> None:
    pictures = Pictures(24, height, width)
    params = draw(dataclasses.replace(PLAIN, flip="both"), pictures.sizes, generator(0))
    on_cpu = crop_cpu(pictures, torch.arange(24), params, size)
    on_device = crop_device(pictures.uniform, params, size) * 255
    assert on_cpu.is_contiguous(memory_format=torch.channels_last)
    with_pil: list[torch.Tensor] = []
    for i, (top, left, h, w) in enumerate(params.box.long().tolist()):
        image = Image.fromarray(pictures.uniform[i].numpy()).crop((left, top, left + w, top + h))
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        across, down = params.flip[i].tolist()
        array = np.asarray(image)[:: -1 if down else 1, :: -1 if across else 1]
        with_pil.append(torch.from_numpy(array.copy()).permute(2, 0, 1))
    theirs = torch.stack(with_pil).float()
    assert float((on_cpu.float() - theirs).abs().max()) <= 2
    assert float((on_device - theirs).abs().max()) <= 2


def test_threads_change_nothing() -> None:
    from concurrent.futures import ThreadPoolExecutor

    pictures = Pictures(40, 40, 50)
    params = draw(PLAIN, pictures.sizes, generator(0))
    with ThreadPoolExecutor(2) as pool:
        threaded = crop_cpu(pictures, torch.arange(40), params, 24, pool)
    assert torch.equal(threaded, crop_cpu(pictures, torch.arange(40), params, 24))


@pytest.mark.parametrize(("height", "width"), [(256, 341), (300, 256), (256, 256)])
def test_the_central_view_is_resize_then_center_crop(height: int, width: int) -> None:
    pictures = Pictures(2, height, width)
    views = Views(image_size=224, resize=256)
    ours = crop_cpu(pictures, torch.arange(2), center(views, pictures.sizes), 224)
    theirs = TF.center_crop(TF.resize(pictures.uniform.permute(0, 3, 1, 2), [256], antialias=True), [224])
    assert torch.equal(ours, theirs)


def test_the_central_view_of_other_sizes_is_within_half_a_pixel() -> None:
    sizes = torch.tensor([(120, 150), (33, 32), (500, 73), (9, 9)])
    box = center(Views(image_size=64, resize=73), sizes).box
    middle = box[:, :2] + box[:, 2:] / 2
    assert float((middle - sizes / 2).abs().max()) <= 0.5
    exact = sizes.min(1, keepdim=True).values * 64 / 73
    assert float((box[:, 2:] - exact).abs().max()) <= 0.5


def test_random_crop_has_one_size_and_all_places() -> None:
    views = Views(image_size=224, resize=256, crop="random")
    box = draw(views, torch.tensor([[256, 300]]).expand(4000, 2), generator(0)).box
    assert (box[:, 2:] == 224).all()
    assert box[:, 0].unique().tolist() == list(range(33))
    assert box[:, 1].unique().tolist() == list(range(77))


def test_from_config_and_unknown_crop() -> None:
    views = Views.from_config(Config(), is_colour=False)
    assert (views.image_size, views.crop_area, views.colour) == (64, (0.2, 1.0), False)
    with pytest.raises(ConfigError, match="'swirl' is unknown"):
        draw(dataclasses.replace(PLAIN, crop="swirl"), torch.full((1, 2), 9), generator(0))  # pyright: ignore
