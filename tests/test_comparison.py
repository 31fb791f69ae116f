"""The visual comparison and the report, with tiny layers."""

from __future__ import annotations

import dataclasses
import re
import shutil
import warnings

import pytest
from PIL import Image

from sae import images
from sae.__main__ import parser
from sae.errors import SaeError
from sae.evaluation import evaluate, results
from sae.reporting import comparison, figures, report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(photos, tiny_store, tmp_path_factory):
    """A folder of two images and the results of tiny layers on it."""
    folder = tmp_path_factory.mktemp("measured")
    for name in ("coffee", "chelsea"):
        images.write_png(
            images.read(photos / f"{name}.png")[:200, :240], folder / f"set/{name}.png"
        )
    rows = evaluate.evaluate(folder / "set", tiny_store)
    evaluate.save(rows, folder / "set", tiny_store, folder / "results")
    return folder


def test_lower_layers_are_measured_while_one_above_awaits_training(measured, tiny_store, tmp_path):
    shutil.copytree(tiny_store.folder, tmp_path, dirs_exist_ok=True)
    store = dataclasses.replace(tiny_store, folder=tmp_path)
    path = store.path("el2") / "layer.json"
    path.write_text(path.read_text().replace('"below": "', '"below": "0'))
    rows = evaluate.evaluate(measured / "set", store, 2)
    assert list(rows) == ["base", "el1"] and len(rows["el1"]) == 2
    with pytest.raises(SaeError, match=r"train_el2\.py"):
        evaluate.evaluate(measured / "set", store)


def test_what_is_no_image_is_named_and_left_out(measured, tiny_store, tmp_path, capsys):
    shutil.copytree(measured / "set", tmp_path / "set")
    (tmp_path / "set/a.png").write_text("no image")
    places = {"--checkpoints": tiny_store.folder, "--results": tmp_path / "results"}
    words = [str(word) for place in places.items() for word in place]
    options = parser().parse_args(["evaluate", str(tmp_path / "set"), *words])
    with pytest.warns(UserWarning, match=r"a\.png is not an image"):
        assert options.run(options) == 1
    assert "Means without a.png." in capsys.readouterr().out
    document = results.load(tmp_path / "results/set/residual-mse.json")
    assert document["left_out"] == ["a.png"] and len(document["images"][0]) == 2
    for path in (tmp_path / "set").glob("c*.png"):
        path.unlink()
    with pytest.raises(SaeError, match="None of the 1"), pytest.warns(UserWarning):
        options.run(options)


def test_layers_beside_other_codecs(measured, tiny_store, tmp_path, monkeypatch):
    original = images.read(measured / "set" / "coffee.png")
    figure = comparison.compare(original, (20, 30, 120, 90), tiny_store)
    titles = [axes.get_title() for axes in figure.axes]
    captions = [title for title in titles if "/" in title]
    assert len(captions) == 5 * 4
    rows = results.load(measured / "results" / "set" / "residual-mse.json")["images"][1]
    row = next(row for row in rows if row["image"] == "coffee.png")
    expected = f"{row['bpp']:.3f} / {row['psnr-rgb']:.2f} / {row['ms-ssim-rgb']:.3f}"
    assert f"+EL1\n{expected}" in captions
    (path,) = figures.save(figure, tmp_path / "compare", ("png",))
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.title.get_window_extent().y1 <= figure.bbox.y1
    assert not any("lower" in caption for caption in captions)
    monkeypatch.setattr(comparison.anchors, "nearest", lambda image, key, size: (2 * size, image))
    figure = comparison.compare(original, (20, 30, 120, 90), tiny_store, ("jpeg",))
    assert sum("JPEG, goes no lower" in axes.get_title() for axes in figure.axes) == 5
    assert Image.open(path).size[0] == pytest.approx(17.8 / 2.54 * 300, abs=1)
    for crop in ((0, 0, 999, 10), (-1, 0, 10, 10), (0, 0, 0, 10)):
        with pytest.raises(SaeError, match="crop"):
            comparison.compare(original, crop, tiny_store)


@pytest.mark.parametrize("crop", [(0, 0, 240, 1), (0, 0, 1, 200)])
def test_crops_of_any_shape(measured, tiny_store, crop):
    original = images.read(measured / "set" / "coffee.png")
    figure = comparison.compare(original, crop, tiny_store, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        figure.draw_without_rendering()
    assert max(figure.get_size_inches()) < 20


def test_layers_of_a_progressive_stream(measured, progressive_store):
    original = images.read(measured / "set" / "coffee.png")
    figure = comparison.compare(original, (0, 0, 240, 200), progressive_store, ())
    captions = [axes.get_title() for axes in figure.axes if "/" in axes.get_title()]
    names = [caption.split("\n")[0] for caption in captions]
    assert names == ["base", "+EL1", "+EL2", "+EL3", "+EL4"]


def page(measured, checkpoints, target, **options):
    return report.write(
        target, measured / "results" / "set", measured / "set", checkpoints, **options
    )


def test_the_report_is_one_file(measured, tiny_checkpoints, tmp_path):
    text = page(measured, tiny_checkpoints, tmp_path / "report.html").read_text()
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    # Nothing is fetched: no source or link but data and the library's own texts.
    tags = re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", text, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=", tags)
    data = text.split('<script id="data"')[1]
    assert data.count("data:image/webp;base64,") == 2 * 6
    assert text.count("<td>chelsea.png</td>") == 5


def test_the_report_leaves_out_images_that_are_not_there(measured, tiny_checkpoints, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="make kodak"):
        path = report.write(
            tmp_path / "report.html",
            measured / "results" / "set",
            tmp_path / "empty",
            tiny_checkpoints,
        )
    text = path.read_text()
    assert text.count("<td>chelsea.png</td>") == 5 and 'id="rd-psnr"' in text
    assert "data:image/webp" not in text.split('<script id="data"')[1]


def test_the_report_refuses_other_weights(measured, tiny_checkpoints, tmp_path):
    other = tmp_path / "results"
    shutil.copytree(measured / "results", other)
    for path in other.rglob("*.json"):
        path.write_text(re.sub(r'"bytes": (\d+)', r'"bytes": 1\1', path.read_text()))
    with pytest.raises(SaeError, match="evaluate"):
        report.write(tmp_path / "a.html", other / "set", measured / "set", tiny_checkpoints)
    with pytest.raises(SaeError, match=r"nothing\.png"):
        page(measured, tiny_checkpoints, tmp_path / "a.html", only=["nothing.png"])
    assert not (tmp_path / "a.html").exists()


def test_the_report_in_a_browser(measured, tiny_checkpoints, tmp_path, browser):
    from selenium import webdriver

    path = page(measured, tiny_checkpoints, tmp_path / "report.html")
    browser.get(path.as_uri())

    def all_of(selector):
        return browser.find_elements("css selector", selector)

    assert all_of("#rd-ms-ssim-db .main-svg") and len(all_of("figure")) == 2
    figure = all_of("figure")[0]
    image, slider, caption = (
        figure.find_element("css selector", name) for name in ("img", "input", "figcaption")
    )
    top, said = image.get_attribute("src"), caption.text
    slider.send_keys(webdriver.Keys.HOME)
    base = image.get_attribute("src")
    assert base != top and caption.text != said
    actions = webdriver.ActionChains(browser)
    actions.scroll_to_element(image).click_and_hold(image).perform()
    assert image.get_attribute("src") not in (base, top)
    assert figure.find_element("css selector", "output").text == "original"
    actions.release(image).perform()
    assert image.get_attribute("src") == base

    table = all_of("table")[-1]
    heading = table.find_elements("css selector", "th")[3]
    for direction in (1, -1):
        heading.click()
        cells = table.find_elements("css selector", "td:nth-child(4)")
        sizes = [int(cell.text) for cell in cells]
        assert sizes == sorted(sizes)[::direction]
    browser.save_screenshot(str(tmp_path / "report.png"))
