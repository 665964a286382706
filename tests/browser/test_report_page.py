"""The report in a browser, from a file: as wide as a phone and as a desk, in the light, in the dark and on paper."""

import re

import pytest
from example_report import UNSEEN, make

from cliptea.report.page import build_report

WIDTHS = {"phone": 390, "desk": 1280}
CUT_OFF = """
    const wide = (part) => part.getBoundingClientRect().right > innerWidth + 1;
    const parts = [...document.querySelectorAll('body *')].filter((part) => !part.closest('.scroll, nav, svg'));
    return parts.filter(wide).map((part) => `${part.tagName} ${part.className}`);"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(build_report(make()), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """Many classes and names without a place to break."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    classes = [f"{'playingfieldwithfence' * 3}{number}" for number in range(60)]
    variants = [("g" * 60, f"{'timm' * 15}{number}", "timm:" + "x" * 60, 0.5, f"m{number}") for number in range(6)]
    context = make(classes=classes, unseen=classes[:9], variants=variants, title="t" * 200)
    file.write_text(build_report(context), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_the_window_and_asks_for_nothing(browser, page, width, scheme):
    browser.open(page, width, scheme)
    assert browser("return document.documentElement.scrollWidth") <= width
    assert browser("return innerWidth") == width
    assert browser(CUT_OFF) == []
    assert browser.errors() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    ink, paper = (luminance(browser(f"return getComputedStyle(document.body).{name}")) for name in INK_AND_PAPER)
    assert (ink > paper) is (scheme == "dark")
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7  # WCAG 2, AAA


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_long_names_and_many_classes_fit_as_well(browser, long_names, width):
    browser.open(long_names, width)
    assert browser("return document.documentElement.scrollWidth") <= width
    browser("document.querySelectorAll('details').forEach((part) => { part.open = true; });")
    assert browser("return document.documentElement.scrollWidth") <= width
    assert browser(CUT_OFF) == []


def test_on_a_phone_it_shows_where_a_table_goes_on_and_every_section_s_name(browser, page):
    browser.open(page, WIDTHS["phone"])
    state = """
        const table = document.querySelector('#results .scroll');
        return [table.scrollWidth > table.clientWidth, getComputedStyle(table).maskImage !== 'none'];"""
    settle = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    browser.wait(settle)
    assert browser(state) == [True, True]
    browser("document.querySelector('#results .scroll').scrollLeft = 10000;")
    browser.wait(settle)
    assert browser(state) == [True, False]
    ends = browser("return [...document.querySelectorAll('nav a')].map((a) => a.getBoundingClientRect().right)")
    assert max(ends) <= WIDTHS["phone"]
    browser.open(page, WIDTHS["desk"])
    browser.wait(settle)
    assert browser("return document.querySelectorAll('#facts .scroll.more').length") == 0


def test_names_break_after_underscores_alone(browser, page):
    browser.open(page, WIDTHS["phone"])
    broken = """
        const lines = (node, from, to) => {
          const range = document.createRange();
          range.setStart(node, from); range.setEnd(node, to);
          return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size;
        };
        const bad = [];
        for (const part of document.querySelectorAll('details')) part.open = true;
        for (const cell of document.querySelectorAll('tbody th, td, figcaption, .tiles .note')) {
          const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
          for (let node = walker.nextNode(); node; node = walker.nextNode())
            for (const word of node.data.matchAll(/[\\w]+/g))
              if (lines(node, word.index, word.index + word[0].length) > 1) bad.push(word[0]);
        }
        return bad;"""
    assert browser(broken) == []


def test_tables_sort_both_ways(browser, page):
    browser.open(page, WIDTHS["desk"])
    for title, kind in (("hIoU", float), ("unseen mIoU", float), ("Variant", str)):
        found = [sorted_by(browser, "#results table", title, kind) for _ in range(2)]
        assert found[0] != found[1]
        assert found[0] == sorted(found[0], reverse=kind is float)
        assert found[1] == sorted(found[1], reverse=kind is str)
    assert browser("return document.querySelectorAll('#results [aria-sort]').length") == 1


def test_classes_sort_within_seen_and_unseen(browser, page):
    browser.open(page, WIDTHS["desk"])
    read = "return [...document.querySelectorAll('#classes tbody th')].map((cell) => cell.textContent)"
    before = browser(read)
    values = sorted_by(browser, "#classes table", "no_ce", float)
    after = browser(read)
    assert before != after
    assert after[0] == "Unseen"
    assert after[4] == "Seen"
    assert set(after[1:4]) == set(UNSEEN)
    assert values[:3] == sorted(values[:3], reverse=True)
    assert values[3:] == sorted(values[3:], reverse=True)


def test_a_picture_is_enlarged_and_names_the_class_under_the_pointer(browser, page):
    browser.open(page, WIDTHS["desk"])
    browser("document.querySelector('#predictions').scrollIntoView({behavior: 'instant'});")
    browser.click("#predictions tr:nth-child(2) button.tile")
    assert browser("return document.querySelector('#viewer').open")
    assert browser("return document.querySelector('#viewer p').textContent") == "ground truth, val/0"
    small, large = (
        browser(f"return document.querySelector('{which} img.map').width") for which in ("#predictions", "#viewer")
    )
    assert large > 2 * small
    move = """
        const box = document.querySelector('#viewer img').getBoundingClientRect();
        const at = {clientX: box.left + 5, clientY: box.top + 5, bubbles: true};
        document.querySelector('#viewer img').dispatchEvent(new PointerEvent('pointermove', at));
        return document.querySelector('#viewer .probe').textContent;"""
    context = make()
    assert browser(move) == context.facts.catalogue.classes[context.predictions[0].truth[0, 0]]
    assert browser.errors() == []


def test_on_paper_everything_is_there(browser, page):
    browser.open(page, WIDTHS["desk"], "dark")
    paper = browser.print()
    assert paper.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 30


INK_AND_PAPER = ("color", "backgroundColor")


def luminance(colour):
    """WCAG's relative luminance of a CSS colour "rgb(r, g, b)"."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def sorted_by(browser, table, title, kind):
    """Click a column's heading in the first such table; the column's values from top to bottom."""
    script = """
        const table = document.querySelector(arguments[0]);
        const heads = [...table.tHead.rows[0].cells];
        const index = heads.findIndex((head) => head.querySelector('button')?.textContent.startsWith(arguments[1]));
        heads[index].querySelector('button').click();
        const rows = [...table.querySelectorAll('tbody tr:not(.part)')];
        return rows.map((row) => row.cells[index].dataset.v ?? row.cells[index].textContent.trim());"""
    return [kind(value) for value in browser(script, table, title)]
