"""The built site, as files and in headless Chromium; run by `.ci/site`, which builds it: XENT_SITE is its folder."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import numpy as np
import pytest
from bs4 import BeautifulSoup

import xent

SOURCE = Path(__file__).parent.parent
SITE = Path(os.environ.get("XENT_SITE", SOURCE / "build/site")).resolve()
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
# tests/test_documentation.py checks that docs/api.rst, of which these pages are made, has every public name.
NAMES = sorted(path.stem for path in SITE.glob("api/*.html"))
WIDTHS = (360, 1400)
assert PAGES, f"no site in {SITE}: sphinx-build -W -b html docs build/site"


@functools.cache
def parsed(page: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / page).read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(page: str) -> set[str]:
    return {tag["id"] for tag in parsed(page).find_all(id=True)}


def links(page: str) -> set[tuple[str, str]]:
    """The pages and files of the site to which a page links, and the anchors there."""
    found = set()
    for tag in parsed(page).find_all("a", href=True):
        target, anchor = urldefrag(urljoin(page, tag["href"]))
        if not urlsplit(target).scheme:
            found.add((unquote(target), unquote(anchor)))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = set()
    for target, anchor in links(page):
        if not (SITE / target).is_file():
            broken.add(target)
        elif target.endswith(".html") and anchor and anchor not in anchors(target):
            broken.add(f"{target}#{anchor}")
    assert broken == set()


@pytest.mark.parametrize("page", PAGES)
def test_files_are_of_the_site(page: str) -> None:
    """Images, scripts and styles: there, and of no other host."""
    for tag in parsed(page).find_all(["img", "script", "link", "iframe", "source", "object"]):
        for attribute in ("src", "href", "data", "srcset"):
            if target := tag.get(attribute):
                assert not urlsplit(target).netloc, target
                assert (SITE / urljoin(page, unquote(urlsplit(target).path))).is_file(), target


def test_every_public_name_is_three_clicks_away() -> None:
    reached = clicked = {"index.html"}
    for _ in range(3):
        clicked = {
            target
            for page in clicked
            for target, _ in links(page)
            if target.endswith(".html") and (SITE / target).is_file()
        } - reached
        reached = reached | clicked
    assert {name for name in NAMES if f"api/{name}.html" not in reached} == set()


@pytest.mark.parametrize("name", NAMES)
def test_page_of_a_public_name(name: str) -> None:
    page = parsed(f"api/{name}.html")
    signature = page.find(id=name)
    assert signature is not None
    # The docstring of the object itself, not of the class of a constant.
    assert len(signature.find_next_sibling("dd").get_text().split()) > 5
    if name != "xent.stages.dtype":
        source = signature.find("a", class_="reference internal", href=re.compile("_modules/"))
        assert source is not None, "no link to the source"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A tab of the browser, and all that went wrong in it."""

    def __init__(self, browser: Any, host: str, scheme: str = "light") -> None:
        context = browser.new_context(color_scheme=scheme)
        context.set_default_timeout(300_000)
        self.page, self.host = context.new_page(), host
        self.wrong: list[str] = []
        self.page.on("console", self.check_message)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", self.check_failure)
        self.page.on("request", self.check_host)
        self.page.on(
            "response", lambda r: r.status >= 400 and self.wrong.append(f"{r.status} {r.url}")
        )

    def check_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.text} ({message.location['url']})")

    def check_host(self, request: Any) -> None:
        if not request.url.startswith((self.host, "data:", "blob:")):
            self.wrong.append(f"another host: {request.url}")

    def check_failure(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # as leaving a page does
            self.wrong.append(f"{request.failure}: {request.url}")

    def open(self, page: str) -> None:
        self.page.goto(self.host + page, wait_until="load")


@pytest.fixture(scope="module")
def only_tab(browser: Any, host: str) -> Iterator[Tab]:
    """One for all tests: what pages share is read once."""
    tab = Tab(browser, host)
    yield tab
    tab.page.context.close()


@pytest.fixture
def tab(only_tab: Tab) -> Iterator[Tab]:
    only_tab.wrong.clear()
    yield only_tab
    assert only_tab.wrong == []


# What is wrong in the page as it is shown.
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
FORMULAS = """
async () => {
  if (!document.querySelector('.math')) return [];
  await MathJax.startup.promise;
  const raw = [...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container'));
  const failed = [...document.querySelectorAll('[data-mjx-error], mjx-merror')];
  return [...raw, ...failed].map(m => m.textContent);
}
"""


@pytest.mark.parametrize("page", PAGES)
def test_page_in_a_browser(tab: Tab, page: str) -> None:
    tab.page.set_viewport_size({"width": WIDTHS[0], "height": 800})
    tab.open(page)
    for width in WIDTHS:
        tab.page.set_viewport_size({"width": width, "height": 800})
        assert tab.page.evaluate(FORMULAS) == []
        assert tab.page.evaluate(OVERFLOW) <= 0
    tab.page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
    tab.page.wait_for_function("[...document.images].every(i => i.complete)")
    assert tab.page.evaluate(BROKEN) == []


def test_search_finds(tab: Tab) -> None:
    tab.open("index.html")
    tab.page.fill("input[name=q]", "cross_entropy")
    tab.page.press("input[name=q]", "Enter")
    result = tab.page.locator("#search-results a[href*='api/xent.cross_entropy.html']").first
    result.wait_for()
    tab.page.wait_for_load_state("networkidle")  # what is around the word in each page
    result.click()
    tab.page.wait_for_url("**/api/xent.cross_entropy.html*")
    assert "Softmax cross-entropy" in tab.page.inner_text("article")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(browser: Any, host: str, scheme: str) -> None:
    tab = Tab(browser, host, scheme)
    tab.open("choose.html")
    colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]])
    assert (lightness < 128) == (scheme == "dark")
    tab.page.context.close()
    assert tab.wrong == []


def test_names_of_the_picture_lead_to_their_functions(tab: Tab) -> None:
    tab.open("choose.html")
    names = tab.page.locator("#choose a")
    targets = names.evaluate_all("a => a.map(x => [x.textContent.trim(), x.getAttribute('href')])")
    assert len(targets) > 15
    assert all(target == f"api/xent.{name}.html" for name, target in targets)
    names.nth(1).click()
    tab.page.wait_for_url(f"**/{targets[1][1]}")


def moved(tab: Tab, figure: str, **values: float) -> Any:
    """A figure whose sliders have been moved."""
    root = tab.page.locator(f".explore-{figure}-figure")
    for name, value in values.items():
        root.locator(f"input[name={name}]").evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
            str(value),
        )
    return root


def shown(root: Any, selector: str) -> list[float]:
    return [
        float(x) for x in root.locator(selector).evaluate_all("a => a.map(x => x.dataset.value)")
    ]


OPTIONS = [
    {},
    {"temperature": 0.25},
    {"temperature": 4, "smoothing": 0.3},
    {"smoothing": 0.9},
    {"gamma": 0.5},
    {"temperature": 2.5, "gamma": 5},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", [0, 3])
def test_row_of_sliders(tab: Tab, options: dict[str, float], target: int) -> None:
    tab.open("explore.html")
    logits = {"logit0": 6, "logit1": -2.25, "logit3": -6, "logit4": 1.5}
    root = moved(tab, "row", **options, **logits)
    root.locator(f"input[type=radio][value='{target}']").check()
    call = root.locator(".explore-call").inner_text().replace("\n", " ")
    loss, grad = eval(call, {"xent": xent})
    z = [6, -2.25, 0, -6, 1.5]
    np.testing.assert_allclose(shown(root, ".loss"), [loss], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(shown(root, ".gradient"), grad, rtol=1e-12, atol=1e-15)
    p = xent.softmax(np.array(z) / options.get("temperature", 1))
    np.testing.assert_allclose(shown(root, ".softmax"), p, rtol=1e-12)
    check_call(call, z, target, options)


def check_call(call: str, z: list[float], target: int, options: dict[str, float]) -> None:
    """The call that is shown is that of the sliders."""
    function, arguments = ast.parse(call).body[0].value.func.attr, ast.parse(call).body[0].value
    assert function == ("focal_loss" if options.get("gamma") else "cross_entropy")
    assert [ast.literal_eval(argument) for argument in arguments.args] == [z, target]
    given = {word.arg: ast.literal_eval(word.value) for word in arguments.keywords}
    assert given["temperature"] == options.get("temperature", 1)
    assert given.get("gamma", 0) == options.get("gamma", 0)
    assert given.get("label_smoothing", 0) == options.get("smoothing", 0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("logit", [-6, 0.5, 10])
def test_curve_of_sliders(tab: Tab, options: dict[str, float], logit: float) -> None:
    tab.open("explore.html")
    root = moved(tab, "curve", **options, logit=logit)
    call = root.locator(".explore-call").inner_text().replace("\n", " ")
    loss, grad = eval(call, {"xent": xent})
    np.testing.assert_allclose(shown(root, "b.loss"), [loss], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(shown(root, "b.grad"), [grad[0]], rtol=1e-12, atol=1e-15)
    check_call(call, [logit] + [0] * 9, 0, options)
    # The dot is on its curve: heights of the plot are linear in the loss.
    height = float(root.locator("circle.loss").get_attribute("cy"))
    assert height == pytest.approx(10 + (6 - loss) / 8 * 220)


def test_smoothing_and_gamma_exclude_each_other(tab: Tab) -> None:
    tab.open("explore.html")
    root = moved(tab, "row", smoothing=0.5, gamma=2)
    assert root.locator("input[name=smoothing]").input_value() == "0"
    root = moved(tab, "row", smoothing=0.5)
    assert root.locator("input[name=gamma]").input_value() == "0"
