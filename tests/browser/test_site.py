"""The site in a browser: searched, read by night and on a telephone, checked for faults, without network."""

from pathlib import Path

import pytest

from fewshot_lib.course.running.execution import read_notebook
from fewshot_lib.course.running.runner import html_page

from .helpers import opened, served

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHAPTER = "notebooks/02_prototype_classifiers"
KINDS = ["index", CHAPTER, "notebooks/symbols", "RESULTS", "api/core", "search"]
# Where the denominators of a page stand below their numerators, it is set as a formula.
FRACTIONS = """() => [...document.querySelectorAll("mfrac")].map(each => {
    const [above, below] = [...each.children].map(part => part.getBoundingClientRect());
    return above.height > 0 && above.bottom <= below.top + 1})"""


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """The folder of the site, which was built without a fault: no warning, no link that leads nowhere."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: python3 course.py setup browser")
    from fewshot_lib.course.site.build import build

    out, said = tmp_path_factory.mktemp("site"), []
    assert build(out, said.append), "\n".join(said)
    return out / "html"


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


def test_nothing_is_asked_of_the_network_and_no_script_fails(browser, site, address):
    pages = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    assert len(pages) > 30
    with opened(browser, f"{address}/index.html", address) as page:
        for name in pages:
            page.goto(f"{address}/{name}")
        assert (page.foreign, page.errors) == ([], [])


def test_the_search_finds_a_term_in_the_files_without_a_server(browser, site):
    with opened(browser, f"{site.as_uri()}/search.html?q=transductive", site.as_uri()) as page:
        page.wait_for_selector("#search-results li a")
        found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
        assert any("03_cosine_fine_tuning" in link for link in found)
        page.click("#search-results li a")
        page.wait_for_selector("article h1")
        assert page.foreign == []


def test_formulas_are_set_in_their_font(browser, address):
    with opened(browser, f"{address}/{CHAPTER}.html", address) as page:
        fractions = page.evaluate(FRACTIONS)
        assert fractions and all(fractions)
        assert page.evaluate("document.fonts.check('16px \"Course Math\"')")


def test_every_figure_has_an_alternative_text(browser, address):
    with opened(browser, f"{address}/{CHAPTER}.html", address) as page:
        texts = page.eval_on_selector_all("article img", "images => images.map(image => image.alt)")
    assert len(texts) > 5 and all(len(text) > 20 for text in texts)


def test_by_night_it_is_dark(browser, address):
    shade = "() => getComputedStyle(document.body).backgroundColor"
    with opened(browser, f"{address}/index.html", address, color_scheme="light") as page:
        shades = [page.evaluate(shade)]
        for _ in range(2):  # from "as the system" over "dark" to "light"
            page.click(".content-icon-container .theme-toggle")
            shades.append(page.evaluate(shade))
        assert shades[0] == shades[2] == "rgb(255, 255, 255)" != shades[1]
    with opened(browser, f"{address}/index.html", address, color_scheme="dark") as page:
        assert page.evaluate(shade) == shades[1], "as the system has it"


@pytest.mark.parametrize("name", KINDS)
def test_on_a_telephone_no_page_scrolls_sideways(browser, address, name):
    with opened(browser, f"{address}/{name}.html", address, viewport={"width": 360, "height": 740}) as page:
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_no_serious_fault(browser, address, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, f"{address}/{name}.html", address, color_scheme=scheme) as page:
        found = axe.run(page).response["violations"]
    faults = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    assert not faults, [(fault["id"], [node["html"] for node in fault["nodes"]][:3]) for fault in faults]


def test_a_page_of_a_run_holds_its_formulas_and_asks_for_nothing(browser, tmp_path):
    path = ROOT / f"{CHAPTER}.ipynb"
    (tmp_path / "page.html").write_text(html_page(read_notebook(path), path), encoding="utf-8")
    with opened(browser, (tmp_path / "page.html").as_uri(), tmp_path.as_uri()) as page:
        fractions = page.evaluate(FRACTIONS)
        assert fractions and all(fractions)
        assert page.evaluate("document.fonts.check('16px \"Course Math\"')")
        assert (page.foreign, page.errors) == ([], [])


def test_no_number_of_a_table_is_broken_at_its_interval(browser, address):
    with opened(browser, f"{address}/RESULTS.html", address) as page:
        cells = page.eval_on_selector_all("td", "cells => cells.map(cell => cell.textContent)")
        numbers = [text for text in cells if "±" in text and text[0] in "+-0123456789"]
        assert len(numbers) > 50 and not [text for text in numbers if " ± " in text]
