"""Colour jitter, grey and blur of a whole batch in tensor operations, on any device.

Equal per image to torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue` and
`rgb_to_grayscale` on float images with the same factors in the same order.
Shapes: B batch, C channels, P pixels of a view, H×W a view.
"""

from __future__ import annotations

import torch

from unlabeled.data.augment import CONTRAST, HUE, SATURATION, Parameters

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
