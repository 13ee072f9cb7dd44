"""What the report shows of the network itself: which filters and images, how much of the page, and the section in a browser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import unlabeled
from pictures import Trained
from report_pages import HOSTILE, Outline, made
from unlabeled.models import build_backbone
from unlabeled.report import network_section as looking
from unlabeled.report.facts import Excited, Inside, ReportFacts
from unlabeled.report.network_section import inside, looked_at
from unlabeled.report.page import render
from unlabeled.run import Run
from unlabeled.training.health import Verdict
from unlabeled.visualize.activations import MeansAndFeature, TopImages, stage_means, telling
from unlabeled.visualize.thumbnails import mosaic

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def run(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the fixture as if it had been trained beside labels."""
    copy = tmp_path_factory.mktemp("inside") / "run"
    shutil.copytree(trained.run, copy)
    record = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(record | {"labels": "folder"}))
    return unlabeled.load(copy, device="cpu")


@pytest.mark.parametrize("name", ["alexnet_small", "resnet18_small"])
def test_one_pass_gives_what_two_give(name: str) -> None:
    backbone = build_backbone(name, image_size=32, generator=torch.Generator().manual_seed(0)).eval()
    view = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both, feature = MeansAndFeature(backbone)(view), backbone(view)
    means = stage_means(backbone, backbone.stages[-1], view)
    torch.testing.assert_close(both[:, : means.shape[1]], means)
    torch.testing.assert_close(both[:, means.shape[1] :], feature)


def test_telling_filters_are_choosy_alive_and_of_other_images() -> None:
    means = torch.zeros(40, 5)
    means[:, 0] = 1 + torch.arange(40) / 400  # excited by everything
    means[:9, 1] = 5  # by the first nine alone
    means[:9, 2] = 4 + torch.arange(9) / 10  # by the same nine
    means[9:18, 3] = 1  # by nine others, weakly
    # filter 4 is dead
    found = TopImages(5)
    found.update(torch.arange(40), means)
    assert telling(means, found, 5) == [1, 3, 0]
    assert telling(means, found, 1) == [1]
    assert telling(means, found, 5, most_known=9) == [1, 3, 2, 0]
    few = TopImages(5)
    few.update(torch.arange(4), means[:4])  # fewer images than are kept
    assert 4 not in telling(means[:4], few, 5)


def test_a_mosaic_repeats_pixels_and_blends_nothing() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    address = mosaic(tiles, 3, side=14)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
    assert picture.shape == (3 * 15 + 2 * 3, 3 * 15 + 2 * 3, 4)
    for i, tile in enumerate(tiles):
        top, left = (i // 3) * 18, (i % 3) * 18
        assert (picture[top : top + 15 : 3, left : left + 15 : 3, :3] == tile).all()
    assert (picture[15:18, :, 3] == 0).all() and (picture[36:, 18:, 3] == 0).all()


def test_a_run_is_looked_into(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = run.record.open(run.record.data)
    place = np.arange(len(store))
    found = inside(run, store, place)
    assert found is not None
    assert found.filters.shape == found.untrained_filters.shape == (48, 3, 3, 3) and found.stem == ""
    assert (found.filters != found.untrained_filters).any()
    assert (found.stage, found.num_filters, found.num_images) == ("conv5", 256, 120)
    # The best image of a filter is that of the picture `activations`.
    table = run.visualize("activations", out=run.path / "a")[1].read_text().splitlines()
    for one in found.excited:
        assert f"{one.unit},1,{one.names[0]}," in "\n".join(table)
        assert [store.names[row] for row in one.rows] == list(one.names)
    assert len(found.excited) == 12
    assert found.spectrum["trained"][-1] == pytest.approx(1, abs=0.05)
    assert found.spectrum["trained"] == sorted(found.spectrum["trained"])
    assert {name: len(ratios) for name, ratios in found.edge_ratios.items()} == {"trained": 4, "untrained": 4}
    assert 0.2 < found.edge_chance < 0.3
    again = inside(run, store, place)
    assert again is not None and again.edge_ratios == found.edge_ratios and again.spectrum == found.spectrum
    assert [one.rows for one in again.excited] == [one.rows for one in found.excited]
    monkeypatch.setattr(looking, "MOST_IMAGES", 30)
    some = inside(run, store, place)
    assert some is not None and some.num_images == 30
    assert {row % 4 for one in some.excited for row in one.rows} == {0}


def test_what_was_seen_is_kept_for_what_it_depends_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    (copy / "inside.json").unlink(missing_ok=True)
    looks: list[int] = []
    look = looking._look  # pyright: ignore[reportPrivateUsage]

    def counted(*given: Any) -> Any:
        looks.append(1)
        return look(*given)

    monkeypatch.setattr(looking, "_look", counted)

    def seen(other_weights: float = 0.0) -> Inside:
        opened = unlabeled.load(copy, device="cpu")
        with torch.no_grad():
            next(opened.backbone.parameters()).add_(other_weights)
        store = opened.record.open(opened.record.data)
        found = inside(opened, store, np.arange(len(store)))
        assert found is not None
        return found

    first, again = seen(), seen()
    assert len(looks) == 1
    assert [one.rows for one in again.excited] == [one.rows for one in first.excited]
    assert all(np.array_equal(*pair) for a, b in zip(again.excited, first.excited, strict=True)
               for pair in zip(a.thumbnails, b.thumbnails, strict=True))  # fmt: skip
    plain = ("num_filters", "num_dead", "spectrum", "edge_ratios", "edge_chance", "edge_neighbors", "num_images")
    assert {name: getattr(again, name) for name in plain} == {name: getattr(first, name) for name in plain}

    # Other labels, other weights and a damaged file are looked at anew.
    data = (copy / "data.json").read_text()
    (copy / "data.json").write_text(data.replace('"folder"', "null"))
    assert seen().edge_ratios == {}
    (copy / "data.json").write_text(data)
    assert seen().edge_ratios == first.edge_ratios
    assert len(looks) == 3
    seen(other_weights=0.5)
    assert len(looks) == 4
    (copy / "inside.json").write_text("{}")
    seen()
    assert len(looks) == 5


def test_how_many_images_are_looked_at() -> None:
    assert (looked_at(32), looked_at(100), looked_at(224), looked_at(100_000)) == (4000, 4000, 797, 1)


def test_without_labels_or_weights_there_is_less(run: Run, trained: Trained, tmp_path: Path) -> None:
    plain = unlabeled.load(trained.run, device="cpu")
    store = plain.record.open(plain.record.data)
    found = inside(plain, store, np.arange(len(store)))
    assert found is not None and found.edge_ratios == {}
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    shutil.rmtree(copy / "checkpoints")
    assert inside(unlabeled.load(copy, device="cpu"), store, np.arange(len(store))) is None
    (copy / "data.json").write_text((copy / "data.json").read_text().replace('"folder"', '"gone.csv"'))
    shutil.copytree(run.path / "checkpoints", copy / "checkpoints")
    found = inside(unlabeled.load(copy, device="cpu"), store, np.arange(len(store)))
    assert found is not None and found.edge_ratios == {}


def shown(side: int = 48) -> Inside:
    """A section as large as they come, of pictures that hardly compress."""
    rng = np.random.default_rng(0)
    return Inside(
        filters=rng.integers(0, 256, (96, 13, 13, 3), dtype=np.uint8),
        untrained_filters=rng.integers(0, 256, (96, 13, 13, 3), dtype=np.uint8),
        stem="sobel",
        stage="conv5",
        num_filters=256,
        num_dead=3,
        excited=[
            Excited(
                unit,
                list(rng.integers(0, 256, (9, side, side, 3), dtype=np.uint8)),
                [*HOSTILE, *(f"photo {i}.jpg" for i in range(6))],
                list(range(9)),
            )
            for unit in range(12)
        ],
        num_images=4000,
        spectrum={"trained": [0.2, 0.5, 0.9], "untrained": [0.6, 0.9, 1.0]},
        edge_ratios={"trained": [0.5, 0.6, 0.7], "untrained": [0.2, 0.3, 0.4]},
        edge_chance=0.1,
        edge_neighbors=10,
    )


def facts() -> ReportFacts:
    return ReportFacts("r", Verdict("healthy", "", ""), atlas=made(30), inside=shown(), num_images=10_000)


def test_the_section_says_what_it_shows_and_is_small() -> None:
    page = render(facts())
    outline = Outline(page)
    text = " ".join(" ".join(outline.text).split())
    assert "4,000 of the 10,000 images were looked at" in text and "3 answer to none" in text
    assert "12 of the 256 filters of conv5" in text and "13 × 13 pixels" in text
    assert "holds 20 % after training and 60 % before training" in text.replace("\u00a0", " ")
    assert [bool(image["alt"]) for image in outline.all("img")] == [True, True]
    assert page.count('class="nine" role="img" aria-label="The 9 images that excite filter') == 12
    assert "by chance 10.0 %" in page
    assert page.count("<script") == page.count("</script>")
    assert render(facts()) == page
    without = render(replace(facts(), inside=None))
    assert 'id="inside"' not in without and '#inside"' not in without
    assert len(page) - len(without) < 1_500_000
    ids = [attributes["id"] for _, attributes in outline.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)) and "inside" in ids


def test_all_images_and_no_labels_are_said_too() -> None:
    one = replace(shown(), num_images=10_000, stem="", edge_ratios={}, spectrum={"trained": []}, excited=[], num_dead=0)
    text = render(replace(facts(), inside=one))
    assert "All 10,000 images were looked at" in text and "noise where it did not" in text
    small = replace(one, filters=one.filters[:, :3, :3], untrained_filters=one.filters[:, :3, :3])
    text_of_small = render(replace(facts(), inside=small))
    assert "At 3 × 3 pixels a filter shows little" in text_of_small and "noise where it did not" not in text_of_small
    assert "shows little" not in text
    assert "Do neighbours share a label?" not in text and "How many directions" not in text


def test_the_spectrum_ends_where_nothing_is_left_to_see() -> None:
    def drawn(*rates: float) -> tuple[list[int], str]:
        shares = {f"net{i}": [1 - math.exp(-rate * k) for k in range(1, 257)] for i, rate in enumerate(rates)}
        page = render(replace(facts(), inside=replace(shown(), spectrum=shares, edge_ratios={})))
        chart = page.split("How many directions does it use?")[1].split("</figure>")[0]
        return [len(points.split()) for points in re.findall(r'points="([^"]*)"', chart)], chart

    # 1 - exp(-0.3 k) passes 99 % at 16 and a half at 3, where the other has 1 - exp(-3).
    points, chart = drawn(0.3, 1.0)
    assert points == [16, 16]
    assert "The dots: the share of the first 3." in chart
    assert ">59 %</text>" in chart and ">95 %</text>" in chart and "100 %</text>" in chart
    assert ">net0</text>" in chart and ">net1</text>" in chart
    assert drawn(3.0, 4.0)[0] == [10, 10]
    assert drawn(1e-4)[0] == [256]


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_the_section_in_a_browser(browser: Browser, tmp_path: Path, scheme: Any, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(facts()), encoding="utf-8")
    with browser.new_context(color_scheme=scheme, offline=True, viewport={"width": width, "height": 800}) as context:
        tab = context.new_page()
        complaints: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(file.as_uri())
        part = tab.locator("#inside")
        assert part.get_by_role("heading", name="What the network looks for").is_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(
            "[...document.querySelectorAll('#inside img')].every(i => i.complete && i.naturalWidth > 500)"
        )
        assert part.locator(".nine").count() == 12
        # What was drawn for paper follows the page: the words of the box plot can be read on it.
        ink, page = (
            re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}"))[:3]
            for where, what in (("#inside .boxes text", "fill"), ("body", "backgroundColor"))
        )
        assert abs(sum(map(int, ink)) - sum(map(int, page))) > 300
        part.locator(".nine .t").first.click()
        assert tab.locator("#picture").is_visible()
        assert complaints == []
