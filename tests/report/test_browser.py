"""The page in a real browser: from disk, by mouse, touch and keyboard, in light and dark, on a phone and a desk."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from content import CLASSES, a_full_run, a_scored_folder

from tlearn.report.page import write_report, write_scored

pytestmark = [pytest.mark.browser, pytest.mark.long]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</script><img src=http://evil.test/x onerror=alert(1)>"
PHONE, DESK = (390, 800), (1280, 900)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium and no google-chrome on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Window:
    page: Any
    faults: list[str]
    """Messages on the console, errors, requests that would leave."""


@pytest.fixture
def window(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Window]:
    """Of the size and scheme that a test is parametrized with; nothing may go wrong in it."""
    (width, height), scheme = getattr(request, "param", (DESK, "light"))
    is_phone = width == PHONE[0]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=True, is_mobile=is_phone
    )
    context.set_default_timeout(10_000)
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda of: None if of.url.startswith(("file:", "data:")) else faults.append(of.url))
    yield Window(page, faults)
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages: of runs and of scored folders."""
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for name, classes in (("two", CLASSES[:2]), ("four", CLASSES), ("hostile", (HOSTILE, "dog"))):
        found[name] = Path(write_report(a_full_run(folder / name, classes, 200))).as_uri()
    for name, is_labelled in (("scored", False), ("labelled", True)):
        place = a_scored_folder(folder / name, CLASSES, is_labelled=is_labelled)
        write_scored(str(place), str(place / "page.html"))
        found[name] = (place / "page.html").as_uri()
    return found


def act(window: Window, selector: str, by: str) -> None:
    target = window.page.locator(selector)
    if by == "keyboard":
        target.focus()
        window.page.keyboard.press("Enter")
    else:
        getattr(target, {"mouse": "click", "touch": "tap"}[by])()


def shown(window: Window) -> list[str]:
    """What the tiles say."""
    said: list[str] = window.page.eval_on_selector_all("#tiles button", "all => all.map(of => of.ariaLabel)")
    return said


def wall(window: Window) -> dict[str, Any]:
    found: dict[str, Any] = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).wall")
    return found


@pytest.mark.parametrize(
    ("window", "name"),
    [
        ((PHONE, "light"), "four"),
        ((PHONE, "dark"), "two"),
        ((DESK, "light"), "two"),
        ((DESK, "dark"), "four"),
        ((DESK, "light"), "scored"),
    ],
    indirect=["window"],
)
def test_it_opens_from_disk_and_everybody_can_use_it(window: Window, reports: dict[str, str], name: str) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright").Axe()
    window.page.goto(reports[name])
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for is_open in (False, True) if name == "two" else (False,):
        if is_open:
            window.page.locator("#tiles button").first.click()
        violations = axe.run(window.page)["violations"]
        assert [(of["id"], of["nodes"][0]["html"], of["nodes"][0]["failureSummary"]) for of in violations] == []


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_a_cell_of_the_confusion_matrix_filters_the_wall(window: Window, reports: dict[str, str], by: str) -> None:
    window.page.goto(reports["two"])
    everything = window.page.locator("#shown").text_content()
    act(window, "[data-cell='1,0']", by)
    window.page.wait_for_selector("[data-cell='1,0'][aria-pressed=true]")
    tiles = shown(window)
    assert tiles and all(", predicted disc" in of and of.endswith("true bar") for of in tiles)
    act(window, "[data-cell='1,0']", by)
    window.page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=everything)


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_the_threshold_shows_what_is_kept_and_filters_the_wall(
    window: Window, reports: dict[str, str], by: str
) -> None:
    window.page.goto(reports["two"])
    window.page.select_option("[name=range]", "below")
    first = shown(window)
    slider = window.page.locator("#threshold")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    place = (box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2)
    if by == "keyboard":
        slider.focus()
        window.page.keyboard.press("Home")
        assert shown(window) == []
        for _ in range(30):
            window.page.keyboard.press("ArrowRight")
    else:
        (window.page.mouse.click if by == "mouse" else window.page.touchscreen.tap)(*place)
    place_of = int(slider.input_value())
    at, kept, right, *_ = window.page.evaluate(
        "n => JSON.parse(document.getElementById('data').textContent).thresholds[n]", place_of
    )
    assert 0.7 < at < 0.9 and 0 < kept < 200
    said = window.page.locator("#kept").text_content()
    assert said.startswith(f"At {at:g}: {kept} of 200 pictures are kept") and f"{200 - kept} go to a person" in said
    assert f"{100 * right / kept:.1f}%" in said
    below = [n for n, value in enumerate(wall(window)["probability"]) if value is not None and value < 1e6 * at]
    assert len(shown(window)) == min(60, len(below)) > 0
    assert shown(window) != first
    assert window.page.locator("#histogram .out").count() > 0


SORTS = {
    "mistakes": lambda of, n: (-of["wrong"][n], (-1 if of["wrong"][n] else 1) * of["probability"][n]),
    "uncertain": lambda of, n: of["probability"][n],
    "doubt": lambda of, n: -of["doubt"][n],
    "typical": lambda of, n: -of["typical"][n],
    "unusual": lambda of, n: of["typical"][n],
    "path": lambda of, n: of["path"][n],
}


def test_the_wall_is_in_the_order_that_is_asked_for(window: Window, reports: dict[str, str]) -> None:
    window.page.goto(reports["four"])
    of = wall(window)
    of["wrong"] = [int(a != b) for a, b in zip(of["label"], of["prediction"], strict=True)]
    on_wall = [n for n, split in enumerate(of["split"]) if split != "train"]
    for sort, key in SORTS.items():
        window.page.select_option("[name=sort]", sort)
        expected = [of["path"][n] for n in sorted(on_wall, key=lambda n, key=key: (key(of, n), n))]
        assert [said.split(",")[0] for said in shown(window)] == expected[:60], sort


def test_what_a_run_does_not_know_is_not_offered(window: Window, tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES[:2], 40)
    (run / "pictures.parquet").unlink()
    window.page.goto(Path(write_report(run)).as_uri())
    offered = window.page.locator("[name=sort] option").all_text_contents()
    assert offered == ["most confident mistakes", "least certain", "probably wrong labels", "random", "path"]
    for name in ("split", "status"):
        assert window.page.locator(f"[name={name}]").is_hidden()
    assert window.page.locator("#attention").is_hidden()
    window.page.locator("#tiles button").first.click()
    assert window.page.locator("#detail .verdict").is_visible()


def test_the_filters_join_and_the_same_seed_gives_the_same_order(window: Window, reports: dict[str, str]) -> None:
    window.page.goto(reports["four"])
    for name, value in (("result", "right"), ("label", "2"), ("split", "val"), ("sort", "random")):
        window.page.select_option(f"[name={name}]", value)
    first = shown(window)
    assert first and all("predicted ring" in of and "true ring" in of and of.startswith("val/") for of in first)
    window.page.fill("[name=seed]", "2")
    second = shown(window)
    assert first != second and sorted(first) == sorted(second)
    window.page.fill("[name=seed]", "1")
    assert shown(window) == first
    window.page.click("text=Reset")
    window.page.select_option("[name=split]", "train")
    assert len(shown(window)) == 30


@pytest.mark.parametrize("kind", ["finding", "slice", "drift"])
def test_a_part_shows_its_pictures_on_the_wall(window: Window, reports: dict[str, str], kind: str) -> None:
    window.page.goto(reports["scored" if kind == "drift" else "two"])
    groups = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).groups")
    place, members = next((n, of["members"]) for n, of in enumerate(groups) if of["kind"] == kind and of["members"])
    window.page.locator(f"button[data-group='{place}']").click()
    assert window.page.locator("#shown").text_content().startswith(f"{len(members)} of ")


@pytest.mark.parametrize("window", [(PHONE, "light"), (DESK, "dark")], indirect=True)
def test_a_picture_opens_and_the_arrow_keys_walk_along_the_wall(window: Window, reports: dict[str, str]) -> None:
    window.page.goto(reports["two"])
    of = wall(window)
    order = [said.split(",")[0] for said in shown(window)]
    window.page.locator("#tiles button").first.tap()
    path = window.page.locator("#detail .verdict + p")
    assert path.text_content() == order[0]
    for key, expected in (("ArrowRight", order[1]), ("ArrowRight", order[2]), ("ArrowLeft", order[1])):
        window.page.keyboard.press(key)
        assert path.text_content() == expected
    near = [of["classes"][label] for _, label, _ in of["nearest"][of["path"].index(order[1])]]
    assert window.page.locator("#detail .near bdi").all_text_contents() == near
    window.page.keyboard.press("a")
    assert window.page.locator("#detail .big").get_attribute("aria-pressed") == "true"
    window.page.locator("#detail .big").tap()
    assert window.page.locator("#detail .big").get_attribute("aria-pressed") == "false"
    window.page.keyboard.press("Escape")
    assert window.page.locator("#detail").is_hidden()
    window.page.wait_for_function("path => document.activeElement.ariaLabel?.startsWith(path)", arg=order[1])


@pytest.mark.parametrize("by", ["hover", "focus", "button"])
def test_where_the_model_looked_is_bright(window: Window, reports: dict[str, str], by: str) -> None:
    window.page.goto(reports["two"])
    tile = window.page.locator("#tiles button").first
    assert tile.locator("canvas").count() == 0
    if by == "button":
        window.page.click("#attention")
    else:
        getattr(tile, by)()
    # The shade is thinnest where the attention is highest.
    bright, dark = tile.locator("canvas").evaluate(
        """canvas => {
          const shade = canvas.getContext("2d").getImageData(0, 0, 112, 112).data.filter((_, n) => n % 4 === 3);
          return [Math.min(...shade), Math.max(...shade)];
        }"""
    )
    assert bright < 40 and dark > 180


def test_the_curves_and_the_layers_are_those_that_are_chosen(window: Window, reports: dict[str, str]) -> None:
    window.page.goto(reports["four"])
    curves = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).curves")
    window.page.select_option("#curve", "2")
    assert window.page.locator("#roc .line.validation").get_attribute("d") == curves[2]["roc"]
    assert f"{curves[2]['average_precision']:.3f}" in window.page.locator("#recall figcaption").text_content()
    assert window.page.locator("#of-picture .block").count() == 6
    before = window.page.locator("#of-channel").inner_text()
    window.page.select_option("#layer-block", "5")
    assert window.page.locator("#of-channel img").count() == 12 and "channel 40" in before


def test_the_theme_is_the_systems_until_another_is_chosen(window: Window, reports: dict[str, str]) -> None:
    window.page.goto(reports["two"])
    colours = []
    for _ in range(4):
        colours.append(window.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        window.page.click("#theme")
    light, same, dark, again = colours
    assert light == same == again != dark


def test_names_never_become_markup(window: Window, reports: dict[str, str]) -> None:
    window.page.goto(reports["hostile"])
    window.page.locator("#tiles button").first.click()
    assert window.page.evaluate("document.scripts.length") == 2
    assert window.page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert HOSTILE in window.page.locator("#detail .verdict").text_content()


def test_of_five_thousand_pictures_only_those_that_are_seen_are_built(window: Window, tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES, 20)
    table = pq.read_table(run / "pictures.parquet")
    rows = [row | {"path": f"{n} {row['path']}"} for n, row in enumerate(100 * table.to_pylist()[-50:])]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run / "pictures.parquet")
    window.page.goto(Path(write_report(run)).as_uri())
    assert window.page.locator("#tiles button").count() == 60
    window.page.click("#more")
    assert window.page.locator("#tiles button").count() == 120
    seconds = window.page.evaluate(
        """() => {
          const start = performance.now();
          for (const value of ["uncertain", "typical", "random"]) {
            document.querySelector("[name=sort]").value = value;
            document.querySelector("#filters").dispatchEvent(new Event("input"));
          }
          return (performance.now() - start) / 3000;
        }"""
    )
    assert seconds < 0.5


def test_it_prints_light_and_without_controls(window: Window, reports: dict[str, str]) -> None:
    window.page.emulate_media(media="print", color_scheme="dark")
    window.page.goto(reports["two"])
    assert window.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"
    assert window.page.locator(".bar").is_hidden() and window.page.locator("#filters").is_hidden()
    assert window.page.locator("#tiles img").first.is_visible()
