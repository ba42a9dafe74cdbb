"""The page at "/" in a headless Chromium. TREELINE_SCREENSHOTS names a folder to leave pictures in."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import chromium
import pytest
from conftest import Server, start_server, stop_server

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="needs Debian's chromium")

ANSWERS = "document.querySelectorAll('#messages li')[1].querySelector('.text')"
# Relative luminance and contrast as WCAG 2 defines them, of an element against its background.
CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const luminance = (color) => channels(color).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$/.test(color) && color !== 'transparent') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('h1, h2, h3, p, label, button:enabled, dt, dd, li, span, summary')]
    .filter((element) => element.textContent.trim())
    .map((element) => {
      const [a, b] = [getComputedStyle(element).color, background(element)].map(luminance);
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
              element.tagName + ' ' + element.textContent.trim().slice(0, 30)];
    }).filter(([contrast]) => contrast < 4.5);
})()"""
UNLABELLED = """[...document.querySelectorAll('input, select, textarea, button, meter, progress, svg')]
  .filter((e) => !(e.labels && e.labels.length) && !e.textContent.trim() &&
                 !e.getAttribute('aria-label')).map((e) => e.outerHTML)"""


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("page"), "--drafter", "ngram")
    yield running
    assert stop_server(running) == 0


@pytest.fixture(params=[(1280, 900, False), (390, 844, True)], ids=["desktop", "dark-phone"])
def page(request: pytest.FixtureRequest, page_server: Server,
         tmp_path: pathlib.Path) -> Iterator[chromium.Page]:
    page = chromium.Page(tmp_path / "profile", *request.param)
    page.open(page_server.url)
    yield page
    assert page.errors == []
    page.close()


def picture(page: chromium.Page, name: str) -> None:
    if folder := os.environ.get("TREELINE_SCREENSHOTS"):
        width = page.evaluate("innerWidth")
        page.screenshot(pathlib.Path(folder) / f"{name}-{width}.png")


def ask(page: chromium.Page, question: str, max_tokens: int, temperature: float = 0) -> None:
    page.evaluate(f"document.querySelector('#max_tokens').value = '{max_tokens}'")
    page.evaluate(f"document.querySelector('#temperature').value = '{temperature}'")
    page.evaluate("document.querySelector('#prompt').focus()")
    page.type(question)
    page.press("Enter", 13, "\r")


def test_a_chat_streams_and_shows_what_was_guessed_ahead(page: chromium.Page) -> None:
    page.wait_for("document.querySelector('#model').textContent.includes('tokens')")
    ask(page, "Write a very long story about the sea, with many chapters.", 400)
    page.wait_for(f"{ANSWERS}?.textContent.length > 0")
    first = page.evaluate(f"{ANSWERS}.textContent")
    page.wait_for(f"{ANSWERS}.textContent.length > {len(first)}")  # It streams.
    page.wait_for("document.querySelector('#stop').disabled")
    answer = page.evaluate(f"{ANSWERS}.textContent")
    assert answer.startswith(first)
    assert page.evaluate("document.querySelectorAll('.accepted').length") > 0
    assert "guessed ahead" in page.evaluate("document.querySelector('#speed').textContent")
    assert "tokens/s" in page.evaluate("document.querySelector('#speed').textContent")
    # The live view tells of it.
    page.wait_for("document.querySelectorAll('#acceptance progress').length > 0")
    page.wait_for("document.querySelectorAll('#ttft progress').length > 0")
    page.wait_for("document.querySelectorAll('#batch rect').length >= 6")
    picture(page, "chat")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNLABELLED) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_escape_stops_a_generation(page: chromium.Page) -> None:
    # So hot that it hardly ever comes to an end.
    ask(page, "Write a very long story about the sea, with many chapters.", 4000, temperature=2)
    page.wait_for(f"{ANSWERS}?.textContent.length > 0")
    page.wait_for("document.querySelector('#running').textContent === '1'")
    page.press("Escape", 27)
    page.wait_for("document.querySelector('#stop').disabled")
    assert "(stopped)" in page.evaluate("document.querySelector('#speed').textContent")
    page.wait_for("document.querySelector('#running').textContent === '0'")  # Its slot is free.


def test_an_error_is_shown(page: chromium.Page) -> None:
    ask(page, "x" * 10, 999_999)
    page.wait_for("document.querySelector('.error') !== null")
    assert "context limit" in page.evaluate("document.querySelector('.error').textContent")
    page.errors.clear()  # Chromium itself reports the status 400.


def test_the_keyboard_reaches_everything_in_order(page: chromium.Page) -> None:
    page.evaluate("document.querySelector('#parameters').open = true")
    page.evaluate("document.querySelector('#messages').focus()")
    visited = []
    for _ in range(11):
        page.press("Tab", 9)
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert visited == ["prompt", "send", "clear", "SUMMARY", "temperature", "top_p", "max_tokens",
                       "seed", "drafter", "system", "key"]
