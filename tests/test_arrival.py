"""The page on which a stream arrives byte by byte."""

from __future__ import annotations

import re

import pytest

import sae
from sae import images
from sae.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tiny_checkpoints, tmp_path_factory):
    """The page of an image, and the bytes of its stream after each layer."""
    folder = tmp_path_factory.mktemp("page")
    photo = images.sample_photos()["coffee"][:120, :160]
    images.write_png(photo, folder / "a <photo>.png")
    places = ["--checkpoints", str(tiny_checkpoints), "--output", str(folder)]
    assert main(["show", str(folder / "a <photo>.png"), *places]) == 0
    (path,) = folder.glob("show-*.html")
    data = sae.compress(photo, checkpoints=tiny_checkpoints)
    return path, [len(sae.truncate(data, count)) for count in range(1, 6)]


def test_it_needs_no_network(page):
    text = page[0].read_text()
    assert not re.search(r"(src|href)=|url\(|import ", text.split('type="application/json"')[0])
    assert "a &lt;photo&gt;.png" in text


def test_bytes_sharpen_the_image(page, browser):
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    path, sizes = page
    browser.get(path.as_uri())
    slider = browser.find_element("css selector", "input")
    ours, *others = browser.find_elements("css selector", "figure")
    assert len(others) == 2
    shape = browser.execute_script("i = document.images[0]; return i.clientWidth / i.clientHeight")
    assert shape == pytest.approx(160 / 120, rel=0.02)

    def receive(size):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(script, slider, size)
        picture = ours.find_element("css selector", "img").get_attribute("src")
        return picture, ours.find_element("css selector", "span").text

    assert receive(sizes[0] - 1)[1] == f"needs {sizes[0]:,} bytes"
    shown = [receive(size) for size in sizes]
    assert len({picture for picture, _ in shown}) == 5
    assert [text.split(",")[0] for _, text in shown] == ["base", "+EL1", "+EL2", "+EL3", "+EL4"]
    assert receive(sizes[1] - 1) == shown[0]

    picture = ours.find_element("css selector", "img")
    actions = webdriver.ActionChains(browser)
    actions.click_and_hold(picture).perform()
    assert picture.get_attribute("src") not in {source for source, _ in shown}
    actions.release().perform()

    browser.execute_script("document.querySelector('select').options[2].value = 1e6", slider)
    receive(0)
    browser.find_element("css selector", "option:nth-child(3)").click()
    browser.find_element("css selector", "button").click()
    WebDriverWait(browser, 20).until(lambda _: int(slider.get_attribute("value")) == sizes[-1])
    assert ours.find_element("css selector", "span").text.startswith("+EL4")
