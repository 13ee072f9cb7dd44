"""What a view of an image is: how it is cropped, mirrored and coloured, drawn as tensors for a whole batch.

Drawing parameters and applying them are two things: `draw` needs only image sizes and a generator, so it runs once for
the global batch and every rank applies its part; `resample` cuts the pixels, `colour` changes them.
Shapes: B batch. Boxes are (top, left, height, width) in whole pixels of the stored image, as torchvision's are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from unlabeled.config import Config, Crop, Flip
from unlabeled.errors import ConfigError

CROP_TRIES = 10
"""Attempts to fit a random crop before the largest central one is taken (torchvision's RandomResizedCrop)."""
BLUR_SIGMA = (0.1, 2.0)
"""Least and largest standard deviation of a blur, pixels of the view."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Columns of `Parameters.factors`, and the numbers in `Parameters.order`."""


@dataclass(frozen=True)
class Views:
    """How training views are made. Sizes in pixels of the view, strengths as in `Config`."""

    image_size: int
    resize: int
    crop: Crop = "random_resized"
    crop_area: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Flip = "horizontal"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    colour: bool = True
    """Whether the channels are red, green and blue; saturation, hue and grey are left out where they are not."""

    @staticmethod
    def from_config(config: Config, is_colour: bool) -> Views:
        """The views a configuration asks for, of images that are or are not RGB."""
        shared = {field.name: getattr(config, field.name) for field in fields(Views) if field.name != "colour"}
        return Views(**shared, colour=is_colour)

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """Jitter strengths in the order of `Parameters.factors`, 0 for what these channels cannot have."""
        if self.colour:
            return self.brightness, self.contrast, self.saturation, self.hue
        return self.brightness, self.contrast, 0.0, 0.0


@dataclass(frozen=True)
class Parameters:
    """What is done to each image of a batch; every tensor has B rows and lives on the CPU."""

    box: torch.Tensor
    """float32 [B, 4]: top, left, height, width of the crop in the stored image, whole numbers."""
    flip: torch.Tensor
    """bool [B, 2]: mirrored left-right, mirrored top-bottom."""
    factors: torch.Tensor
    """float32 [B, 4]: brightness, contrast, saturation (1 changes nothing) and hue (turns, 0 changes nothing)."""
    order: torch.Tensor
    """int64 [B, 4]: which colour operation comes first, second, third, fourth."""
    active: tuple[bool, bool, bool, bool]
    """Which of the four colour operations happen at all."""
    only_geometry: bool
    """Whether views are cut and mirrored and nothing else, so that they can stay uint8."""
    grey: torch.Tensor
    """bool [B]: the view loses its colour."""
    sigma: torch.Tensor
    """float32 [B]: standard deviation of the blur in pixels of the view, 0 for none."""

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, part: slice) -> Parameters:
        """The parameters of some images of the batch."""
        return Parameters(
            self.box[part],
            self.flip[part],
            self.factors[part],
            self.order[part],
            self.active,
            self.only_geometry,
            self.grey[part],
            self.sigma[part],
        )


def draw(views: Views, sizes: torch.Tensor, generator: torch.Generator) -> Parameters:
    """Random parameters for images of `sizes` (int [B, 2]: height, width), equal in distribution to torchvision's
    RandomResizedCrop, RandomHorizontalFlip, ColorJitter (random order per image), RandomGrayscale and GaussianBlur.

    Raises ConfigError if the crop is unknown.
    """
    count = len(sizes)
    box = _draw_boxes(views, sizes, generator)
    flip = torch.rand((count, 2), generator=generator) < 0.5
    flip &= torch.tensor([views.flip in ("horizontal", "both"), views.flip in ("vertical", "both")])
    strengths = torch.tensor(views.strengths)
    # Strength s means a factor in [max(0, 1 - s), 1 + s]; hue h a shift in [-h, h].
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
    lowest = neutral - strengths
    lowest[:HUE].clamp_(min=0)
    factors = lowest + torch.rand((count, 4), generator=generator) * (neutral + strengths - lowest)
    order = torch.rand((count, 4), generator=generator).argsort(1)
    chance = torch.rand((count, 2), generator=generator)
    grey = chance[:, 0] < (views.grey if views.colour else 0.0)
    sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * torch.rand(count, generator=generator)
    sigma *= chance[:, 1] < views.blur
    brightness, contrast, saturation, hue = (strength > 0 for strength in views.strengths)
    active = (brightness, contrast, saturation, hue)
    only_geometry = not (any(active) or views.blur or (views.grey and views.colour))
    return Parameters(box, flip, factors, order, active, only_geometry, grey, sigma)


def center(views: Views, sizes: torch.Tensor) -> Parameters:
    """The view that is clustered and embedded: short side to `resize`, central crop of `image_size`, nothing else.

    Source: DeepCluster, section 3.4 (resize 256, central crop 224), expressed as a box in the stored image.
    """
    count = len(sizes)
    return Parameters(
        box=_central_boxes(views, sizes),
        flip=torch.zeros((count, 2), dtype=torch.bool),
        factors=torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(count, 4),
        order=torch.arange(4).expand(count, 4),
        active=(False, False, False, False),
        only_geometry=True,
        grey=torch.zeros(count, dtype=torch.bool),
        sigma=torch.zeros(count),
    )


def _draw_boxes(views: Views, sizes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if views.crop == "random_resized":
        height, width, fallback = _draw_extents(views, sizes, generator)
    elif views.crop == "random":
        height, width = _view_extent(views, sizes)
        fallback = torch.zeros(len(sizes), dtype=torch.bool)
    elif views.crop == "center":
        return _central_boxes(views, sizes)
    else:
        raise ConfigError(f"crop = '{views.crop}' is unknown; use 'random_resized', 'random' or 'center'.")
    room = torch.stack([sizes[:, 0] - height, sizes[:, 1] - width], 1)
    place = (torch.rand((len(sizes), 2), generator=generator, dtype=torch.float64) * (room + 1)).long()
    place = torch.where(fallback[:, None], room // 2, place)
    return torch.stack([place[:, 0], place[:, 1], height, width], 1).float()


def _draw_extents(
    views: Views, sizes: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Height and width of a crop whose area and log aspect ratio are uniform, and whether no attempt fitted."""
    image_height, image_width = sizes[:, :1].double(), sizes[:, 1:].double()
    uniform = torch.rand((2, len(sizes), CROP_TRIES), generator=generator, dtype=torch.float64)
    least, largest = views.crop_area
    area = image_height * image_width * (least + (largest - least) * uniform[0])
    low, high = torch.tensor(views.crop_ratio, dtype=torch.float64)
    ratio = torch.exp(low.log() + (high.log() - low.log()) * uniform[1])
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= image_width) & (heights > 0) & (heights <= image_height)
    first = fits.int().argmax(1, keepdim=True)
    # The fallback is the largest central box whose ratio is allowed.
    whole_height, whole_width = image_height[:, 0], image_width[:, 0]
    image_ratio = whole_width / whole_height
    fallback_height = torch.where(image_ratio < low, (whole_width / low).round(), whole_height)
    fallback_width = torch.where(image_ratio > high, (whole_height * high).round(), whole_width)
    found = fits.any(1)
    height = torch.where(found, heights.gather(1, first)[:, 0], fallback_height)
    width = torch.where(found, widths.gather(1, first)[:, 0], fallback_width)
    return height.clamp(min=1).long(), width.clamp(min=1).long(), ~found


def _view_extent(views: Views, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `image_size` pixels are in the stored image once its short side is thought of as `resize` pixels."""
    short = sizes.min(1).values
    extent = (short.double() * views.image_size / views.resize).round().clamp(min=1).long()
    return extent, extent


def _central_boxes(views: Views, sizes: torch.Tensor) -> torch.Tensor:
    height, width = _view_extent(views, sizes)
    # Half a pixel of room rounds as torchvision's center_crop does: to the even neighbour.
    top = ((sizes[:, 0] - height).double() / 2).round()
    left = ((sizes[:, 1] - width).double() / 2).round()
    return torch.stack([top, left, height, width], 1).float()


LUMA = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601, torchvision's digits)."""
CHUNK_BYTES = 1 << 21
"""Images handled together on a CPU: their planes stay in its second-level cache."""


def colour(views: torch.Tensor, params: Parameters) -> torch.Tensor:
    """Jitter, then grey, then blur the `views` [B, C, S, S] (uint8, or float in [0, 1]): float32 in [0, 1], channels
    last.

    Brightness, contrast and blur work on any number of channels; saturation, hue and grey happen only to three.
    """
    result = torch.empty(views.shape, device=views.device).to(memory_format=torch.channels_last)
    chunk = len(views)
    if views.device.type == "cpu":
        chunk = max(1, CHUNK_BYTES // max(1, 4 * views[0].numel())) if len(views) else 1
    for start in range(0, len(views), max(1, chunk)):
        part = slice(start, start + chunk)
        result[part] = _colour_some(views[part], params[part])
    return result


def _colour_some(views: torch.Tensor, params: Parameters) -> torch.Tensor:
    images = torch.empty(views.shape, device=views.device).copy_(views)
    batch, channels, height, width = images.shape
    if views.dtype == torch.uint8:
        images.mul_(1 / 255)
    planes = images.view(batch, channels, height * width)
    if any(params.active):
        _jitter(planes, params)
    if channels == 3 and bool(params.grey.any()):
        rows = params.grey.nonzero()[:, 0].to(views.device)
        planes[rows] = _luma(planes[rows])[:, None]
    if bool((params.sigma > 0).any()):
        _blur(images, params.sigma)
    return images


def _jitter(planes: torch.Tensor, params: Parameters) -> None:
    """Four places, in each of which every image undergoes the operation that its own order puts there.

    Brightness, contrast and saturation all blend an image with something: x f + (1 - f) base, where base is black, the
    mean of grey, or grey. So one blend serves a whole place, with f = 1 for images whose turn is the hue, or an
    operation that does not happen.
    """
    device, colour = planes.device, planes.shape[1] == 3
    active = torch.tensor(params.active) & torch.tensor([True, True, colour, colour])
    for place in range(4):
        operation = params.order[:, place : place + 1]
        happens = active[operation]
        factor = torch.where(happens & (operation != HUE), params.factors.gather(1, operation), 1.0)
        rest = 1 - factor
        if bool((factor != 1).any()):
            share_mean, share_grey = rest * (operation == CONTRAST), rest * (operation == SATURATION)
            _blend(planes, factor.to(device), share_mean.to(device), share_grey.to(device))
        turned = (happens & (operation == HUE)).nonzero()[:, 0]
        if len(turned):
            rows = turned.to(device)
            some = planes.index_select(0, rows)
            _hue(some, params.factors[turned, HUE, None].to(device))
            planes.index_copy_(0, rows, some)


def _blend(planes: torch.Tensor, factor: torch.Tensor, share_mean: torch.Tensor, share_grey: torch.Tensor) -> None:
    """x factor + mean of grey × share_mean + grey × share_grey, clamped to [0, 1]; all factors [B, 1]."""
    grey = _luma(planes)
    mean = grey.mean(1, keepdim=True)
    base = grey.mul_(share_grey).add_(mean * share_mean)
    planes.mul_(factor[:, None]).add_(base[:, None]).clamp_(0, 1)


def _luma(planes: torch.Tensor) -> torch.Tensor:
    """Grey [B, P] of colour planes [B, 3, P]; of other planes their mean, so that contrast has a middle there too."""
    if planes.shape[1] != 3:
        return planes.mean(1)
    red, green, blue = planes.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _hue(planes: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn the hue in HSV space, exactly, without case distinctions and without making the three HSV planes.

    With least channel m, chroma d = max - m and all channels reduced to R, G, B = (c - m) / d, the hue in sixths of a
    turn is 1 - R + G + B with the sign of G - B: in [0, 1] R = 1 and B = 0 leave G, in [1, 2] G = 1 and B = 0 leave 2
    - R, in [2, 3] G = 1 and R = 0 leave 2 + B. A colour of hue h in [-3, 3] has red m + d (1 - clamp(|h| - 1, 0, 1)),
    and green and blue are the same a third of a turn to either side.
    """
    red, green, blue = planes.unbind(1)
    greatest = torch.maximum(red, green)
    torch.maximum(greatest, blue, out=greatest)
    chroma = torch.minimum(red, green)
    torch.minimum(chroma, blue, out=chroma)
    least = chroma.clone()
    torch.sub(greatest, chroma, out=chroma)
    hue = torch.add(green, blue).sub_(red).sub_(least)
    hue.div_(chroma.clamp(min=1e-12)).add_(1)
    torch.copysign(hue, green.sub_(blue), out=hue)
    hue.add_(6 * turns)
    whole = torch.mul(hue, 1 / 6, out=blue).round_()
    hue.sub_(whole, alpha=6)
    torch.abs(hue, out=red).sub_(1).clamp_(0, 1)
    torch.addcmul(greatest, red, chroma, value=-1, out=red)
    # |h - 2| and |h + 2| reach 5; the way around the circle is the shorter one beyond 3.
    for plane, peak in ((green, 2.0), (blue, -2.0)):
        torch.sub(hue, peak, out=plane).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(least, plane, chroma, out=plane)


def blur_taps(size: int) -> int:
    """Width of the blur in a view of this side: a tenth of it, odd, at least 3 (as SimCLR has 23 at 224)."""
    return max(3, size // 10 // 2 * 2 + 1)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> None:
    """Gaussian blur of the images [B, C, H, W] whose sigma is not 0, borders reflected, as two matrix products."""
    _, _, height, width = images.shape
    chosen = (sigma > 0).nonzero()[:, 0]
    rows = chosen.to(images.device)
    spread = sigma[chosen].to(images.device)
    down, across = _blur_matrix(spread, height)[:, None], _blur_matrix(spread, width)[:, None]
    images[rows] = (down @ images[rows] @ across.transpose(2, 3)).clamp_(0, 1)


def _blur_matrix(sigma: torch.Tensor, extent: int) -> torch.Tensor:
    """Matrix [B, extent, extent] of a Gaussian with `blur_taps` taps whose ends are folded back into the line."""
    radius = min(blur_taps(extent) // 2, extent - 1)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    taps /= taps.sum(1, keepdim=True)
    source = (torch.arange(extent, device=sigma.device)[:, None] + offset).abs()
    source = torch.where(source >= extent, 2 * (extent - 1) - source, source)
    matrix = torch.zeros((len(sigma), extent, extent), device=sigma.device)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), taps[:, None].expand(-1, extent, -1).contiguous())
