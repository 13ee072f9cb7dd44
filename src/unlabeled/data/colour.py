"""Colour jitter, grey and blur of a whole batch in tensor operations, on any device.

Equal per image to torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue` and
`rgb_to_grayscale` on float images with the same factors in the same order.
Shapes: B batch, C channels, P pixels of a view. Inside, planes come first ([C, B, P]): each channel of a group of
images is then one contiguous run of memory.
"""

from __future__ import annotations

import torch

from unlabeled.data.augment import BRIGHTNESS, CONTRAST, HUE, SATURATION, Parameters

LUMA = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601, torchvision's digits)."""
CHUNK_BYTES = 1 << 20
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
    batch, channels, height, width = views.shape
    planes = torch.empty((channels, batch, height * width), device=views.device)
    planes.view(channels, batch, height, width).copy_(views.transpose(0, 1))
    if views.dtype == torch.uint8:
        planes.mul_(1 / 255)
    active = [operation for operation, happens in enumerate(params.active) if happens]
    if channels != 3:
        active = [operation for operation in active if operation in (BRIGHTNESS, CONTRAST)]
    factors = params.factors.to(views.device)
    if active:
        _jitter(planes, factors, params.order, active)
    if channels == 3 and bool(params.grey.any()):
        rows = params.grey.nonzero()[:, 0].to(views.device)
        planes[:, rows] = _luma(planes[:, rows])
    if bool((params.sigma > 0).any()):
        _blur(planes.view(channels, batch, height, width), params.sigma)
    return planes.view(channels, batch, height, width).transpose(0, 1)


def _jitter(planes: torch.Tensor, factors: torch.Tensor, order: torch.Tensor, active: list[int]) -> None:
    """Each image goes through its own order: in each of the four places, images with the same operation go together."""
    operations = {BRIGHTNESS: _brightness, CONTRAST: _contrast, SATURATION: _saturation, HUE: _hue}
    if len(active) == 1:
        operations[active[0]](planes, factors[:, active[0], None])
        return
    for place in range(4):
        for operation in active:
            chosen = (order[:, place] == operation).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            rows = chosen.to(planes.device)
            group = planes.index_select(1, rows)
            operations[operation](group, factors[rows, operation, None])
            planes.index_copy_(1, rows, group)


def _luma(planes: torch.Tensor) -> torch.Tensor:
    """Grey [B, P] of colour planes [3, B, P]; of other planes their mean, so that contrast has a middle there too."""
    if len(planes) != 3:
        return planes.mean(0)
    return (planes[0] * LUMA[0]).add_(planes[1], alpha=LUMA[1]).add_(planes[2], alpha=LUMA[2])


def _brightness(planes: torch.Tensor, factor: torch.Tensor) -> None:
    planes.mul_(factor).clamp_(0, 1)


def _contrast(planes: torch.Tensor, factor: torch.Tensor) -> None:
    middle = _luma(planes).mean(1, keepdim=True)
    planes.mul_(factor).add_(middle * (1 - factor)).clamp_(0, 1)


def _saturation(planes: torch.Tensor, factor: torch.Tensor) -> None:
    grey = _luma(planes).mul_(1 - factor)
    planes.mul_(factor).add_(grey).clamp_(0, 1)


def _hue(planes: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn the hue in HSV space, exactly, without making the three HSV planes.

    With value v = max, chroma d = max - min and hue h in sixths of a turn, channel c of the colour with that hue is
    v - d clamp(2 - |wrap(h - m_c)|, 0, 1), m = 3, 5, 1 the hue opposite to red, green, blue and wrap into [-3, 3].
    """
    red, green, blue = planes[0], planes[1], planes[2]
    value = torch.maximum(red, green)
    chroma = torch.minimum(red, green)
    torch.maximum(value, blue, out=value)
    torch.minimum(chroma, blue, out=chroma)
    torch.sub(value, chroma, out=chroma)
    # Sector of the largest channel: (g - b) / d, 2 + (b - r) / d or 4 + (r - g) / d, in this order of preference.
    is_red, is_green = value == red, value == green
    hue = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    hue.div_(chroma.clamp(min=1e-12))
    hue.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0)))
    hue.add_(6 * turns)
    whole = torch.empty_like(hue)
    for plane, opposite in zip(planes, (3.0, 5.0, 1.0), strict=True):
        torch.sub(hue, opposite, out=plane)
        torch.mul(plane, 1 / 6, out=whole).round_()
        plane.sub_(whole, alpha=6).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma)
        torch.sub(value, plane, out=plane)


def blur_taps(size: int) -> int:
    """Width of the blur in a view of this side: a tenth of it, odd, at least 3 (as SimCLR has 23 at 224)."""
    return max(3, size // 10 // 2 * 2 + 1)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> None:
    """Gaussian blur of the images [C, B, H, W] whose sigma is not 0, borders reflected, as two matrix products."""
    channels, _, height, width = images.shape
    chosen = (sigma > 0).nonzero()[:, 0]
    rows = chosen.to(images.device)
    some = images.index_select(1, rows)
    spread = sigma[chosen].to(images.device)
    down, across = _blur_matrix(spread, height), _blur_matrix(spread, width)
    some = torch.matmul(torch.matmul(down, some), across.transpose(1, 2))
    images.index_copy_(1, rows, some.view(channels, len(rows), height, width).clamp_(0, 1))


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
