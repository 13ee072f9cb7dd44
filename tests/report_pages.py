"""Helpers for tests of the report: its tags and text, a browser, and an atlas of made-up pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from unlabeled.cluster.merge_tree import merge_tree
from unlabeled.report.facts import Atlas, Colouring

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = ["</script><script>alert(1)</script>", "a&b<!--.jpg", "plain.jpg"]


def made(count: int, clusters: int = 5, side: int = 24, seed: int = 0) -> Atlas:
    """An atlas of smooth random pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(count) % clusters
    return Atlas(
        thumbnails=list(coarse.repeat(side // 4, 1).repeat(side // 4, 2)),
        names=[HOSTILE[i] if i < len(HOSTILE) else f"folder {i % 7}/photograph_{i:06d}.jpg" for i in range(count)],
        positions=rng.random((count, 2)),
        clusters=labels,
        distances=rng.random(count),
        neighbours=(np.arange(count)[:, None] + np.arange(1, 13)) % count,
        similarities=np.tile(np.linspace(1, 0.5, 12), (count, 1)),
        repeated=np.zeros((count, 12), np.uint8),
        tree=merge_tree(rng.normal(size=(clusters, 3)), np.bincount(labels, minlength=clusters)),
        colourings=[
            Colouring("brightness", rng.random(count), (), ("darker", "brighter"), "share"),
            Colouring("folder", labels.astype(float), [f"f{i}" for i in range(clusters)]),
        ],
        total=count,
    )


class Outline(HTMLParser):
    """Tags, attributes and visible text of a page; complains about tags that do not match."""

    VOID = frozenset({"meta", "link", "br", "wbr", "img", "input", "circle", "path", "line", "rect", "polyline"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@contextmanager
def launched() -> Iterator[Browser]:
    """The system's Chromium without a window; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs the system's Chromium")
    switches = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=[*switches.split(), "--disable-component-update", "--disable-sync"],
        )
        yield browser
        browser.close()


def until(tab: Page, condition: str) -> None:
    """Wait; playwright's own way evaluates text inside the page, which the page forbids."""
    for _ in range(600):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"in vain: {condition}")
