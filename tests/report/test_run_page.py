"""The report as a whole: the command, the page, and what a real browser makes of it."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
import tiny

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from tinyohem.progress import SILENT
from tinyohem.report.curves import Plot
from tinyohem.report.finished_models import CACHE_FILE, score_runs
from tinyohem.report.run_logs import read_input
from tinyohem.report.run_page import Section, write_report

needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason=browser.MISSING)

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def written(
    finished_run: Path, comparison: Path, make_run, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A page about a finished run, one that goes on and a comparison, all of them hostile."""
    folder = tmp_path_factory.mktemp("report")
    finished, going = folder / IMAGE, folder / "going-on"
    ignored = shutil.ignore_patterns("checkpoints", CACHE_FILE)
    shutil.copytree(finished_run, finished, ignore=ignored)
    make_run(going, finished=False, keep=0.5, data={"dataset": SCRIPT}, level=0.3)
    score_runs(read_input([finished]).runs, SILENT)
    cache = json.loads((finished / CACHE_FILE).read_text())
    cache["story"]["tokens"][0]["text"] = f"{SCRIPT} & {IMAGE} &lt;"
    (finished / CACHE_FILE).write_text(json.dumps(cache))
    write_report([finished, going, comparison], folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def seen(
    request: pytest.FixtureRequest, written: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, browser.Visit]:
    """Whether the browser was asked for dark pages, and what it made of this one."""
    scratch = tmp_path_factory.mktemp("browser") / "visit"
    return request.param, browser.visit(written, scratch, 390, 1440, dark=request.param)


class Links(HTMLParser):
    """Everything on a page that could fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        fetching = {"src", "href", "srcset", "data", "action", "poster", "background"}
        self.links += [(tag, value or "") for name, value in attrs if name in fetching]


class TestPage:
    def test_nothing_on_it_is_fetched(self, written: Path) -> None:
        html = written.read_text()
        page = Links()
        page.feed(html)
        assert not page.tags & {"script", "img", "iframe", "object", "embed", "base", "audio"}
        for tag, target in page.links:
            local = re.fullmatch(r"#[\w-]+|page_figures/[\w-]+\.(svg|png)", target)
            assert local or (tag, target) == ("link", "data:,"), (tag, target)
        assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", html)
        assert set(re.findall(r"url\((.)", html)) == {"#"}
        assert "default-src 'none'" in html

    def test_every_figure_is_there_as_svg_and_png(self, written: Path) -> None:
        html = written.read_text()
        names = re.findall(r'href="page_figures/([\w-]+)\.svg"', html)
        assert len(names) == len(set(names)) == html.count("<svg") > 15
        folder = written.with_name("page_figures")
        assert {path.name for path in folder.iterdir()} == {
            f"{name}.{kind}" for name in names for kind in ("svg", "png")
        }
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        assert len(re.findall(r'role="img" aria-label="[^"]{40,}"', html)) == len(names)

    def test_the_same_runs_give_the_same_page(self, make_run, tmp_path: Path) -> None:
        rows = [{"step": step, "train/lr": 1 / step} for step in range(1, 9)]
        folder = make_run(tmp_path / "a", rows=rows)
        pages = [tmp_path / name / "page.html" for name in ("one", "two")]
        for page in pages:
            write_report([folder], page)
        first, second = (tiny.snapshot(page.parent) for page in pages)
        assert first == second
        assert len(first) == 3

    def test_the_page_lists_what_is_missing(self, written: Path) -> None:
        html = written.read_text()
        assert "Without a finished model yet: going-on.<" in html
        assert "Finished, but without a model to score in their folders: compared/full-s" in html
        assert "at step 200 of 200" in html
        assert "validated on different stories" in html  # the real corpus and a made-up one

    def test_an_unfinished_comparison_says_so_where_it_would_stand(
        self, comparison: Path, tmp_path: Path
    ) -> None:
        ignored = shutil.ignore_patterns("runs.parquet", "random-seed2")
        shutil.copytree(comparison, tmp_path / "c", ignore=ignored)
        write_report([tmp_path / "c"], tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text()
        told = html.index("The comparison c is not finished: 8 of 9 runs are. Missing: random-seed")
        assert told < html.index("<section")

    def test_the_comparison_bears_the_tables_footnote(self, written: Path) -> None:
        html = written.read_text()
        assert "half-way: to the loss that the baseline has at half of its steps" in html
        assert "p is not adjusted for 2 comparisons" in html
        assert "crosses zero leaves the difference open" in html

    def test_it_begins_with_what_came_out(self, comparison: Path, tmp_path: Path) -> None:
        write_report([comparison], tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text()
        told = html.index("Against full, 1.0200 bits per byte: random (+0.0330) is worse")
        assert html.index("<h1>") < told < html.index("<nav")

    @pytest.mark.parametrize("wide", ["", "w", "nwn", "wnn", "nnwnw", "nnn"])
    def test_an_odd_figure_has_the_row_to_itself(self, wide: str) -> None:
        plots = [Plot(str(n), "", None, kind == "w") for n, kind in enumerate(wide)]  # type: ignore[arg-type]
        rows = Section("a", "A", plots=plots).rows
        assert [plot for plot, _ in rows] == plots
        beside = [not alone for _, alone in rows]
        assert sum(beside) % 2 == 0  # they fill their rows
        assert all(alone for plot, alone in rows if plot.wide)
        assert sum(alone and not plot.wide for plot, alone in rows) == wide.count("n") % 2

    def test_a_heading_names_no_more_than_fits(self, make_run, tmp_path: Path) -> None:
        rows = [{"step": 1, "train/lr": 0.1}]
        folders = [make_run(tmp_path / f"{letter * 37}", rows=rows) for letter in "abc"]
        write_report(folders, tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text()
        assert f"<h1>{'a' * 37}, {'b' * 37} and 1 more</h1>" in html

    def test_a_run_that_keeps_every_token_shows_no_selection(
        self, make_run, tmp_path: Path
    ) -> None:
        rows = [{"step": 1, "train/loss": 2.0, "train/keep_ratio": 1.0}]
        write_report([make_run(tmp_path / "a", rows=rows)], tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text()
        assert "No run has left a token out so far." in html
        assert "keep-ratio" not in html


@needs_browser
class TestBrowser:
    def test_it_fits_a_phone_and_a_desk(self, seen: tuple[bool, browser.Visit]) -> None:
        looks = seen[1].looks
        assert [look["client_width"] for look in looks] == [390, 1440]
        assert [look["scroll_width"] for look in looks] == [390, 1440]
        for look in looks:
            assert look["elements"]["svg"] > 15
            assert look["outside"] == []  # no letter of a figure lies beyond its frame

    def test_a_phone_shows_the_verdict_and_whole_names(
        self, seen: tuple[bool, browser.Visit]
    ) -> None:
        phone, desk = seen[1].looks
        (verdicts,) = [dict(row) for row in phone["heads"] if "verdict" in dict(row)]
        assert verdicts["verdict"] < 390
        assert verdicts["p"] > 390  # the rest scrolls
        (details,) = [dict(row) for row in desk["heads"] if "measure" in dict(row)]
        assert list(details) == ["measure", "full", "random", "ohem"]
        assert max(details.values()) < 1440
        assert phone["lines"]["compared/random-seed0"] == 1

    def test_it_logs_nothing_and_fetches_nothing(self, seen: tuple[bool, browser.Visit]) -> None:
        assert seen[1].console == []
        assert seen[1].requests == []

    def test_what_looks_like_markup_stays_text(self, seen: tuple[bool, browser.Visit]) -> None:
        for look in seen[1].looks:
            assert f"{SCRIPT} & {IMAGE} &lt;" in look["text"]  # in the story
            assert f"{IMAGE}, going-on" in look["text"]  # names of runs, in the heading
            assert (look["elements"]["script"], look["elements"]["img"]) == (0, 0)
            assert look["handlers"] == 0

    def test_colours_turn_with_the_scheme(self, seen: tuple[bool, browser.Visit]) -> None:
        dark, visit = seen
        for look in visit.looks:
            ground, ink = brightness(look["background"]), brightness(look["ink"])
            assert (ground < 60 and ink > 150) if dark else (ground > 230 and ink < 110)

    def test_the_browser_sees_what_a_page_must_not_do(self, tmp_path: Path) -> None:
        page = tmp_path / "bad.html"
        page.write_text(
            '<!doctype html><figure style="width:50px"><svg width="10" height="10">'
            '<text x="200" y="5">outside</text></svg></figure><div style="width:900px">.</div>'
            '<img src="http://127.0.0.1:9/x.png"><script>console.error("boo")</script>'
        )
        visit = browser.visit(page, tmp_path / "visit", 390)
        (look,) = visit.looks
        assert look["scroll_width"] > 390
        assert look["outside"] == ["outside"]
        assert any("boo" in line for line in visit.console)
        assert visit.requests == ["http://127.0.0.1:9/x.png"]


class TestCommand:
    def test_it_writes_the_page_and_says_where(
        self, tinyohem: tiny.Command, make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make_run(tmp_path / "a", rows=[{"step": 1, "train/lr": 0.1}])
        result = tinyohem("report", "a")
        assert (result.code, result.out) == (0, "report.html\nreport_figures\n")
        assert "figures" in result.err  # progress
        files = [path.name for path in (tmp_path / "report_figures").iterdir()]
        assert sorted(files) == ["learning-rate.png", "learning-rate.svg"]

    def test_runs_that_do_not_compare_are_warned_of(
        self, tinyohem: tiny.Command, make_run, tmp_path: Path
    ) -> None:
        rows = [{"step": 1, "val/bpb": 1.0}]
        folders = [
            make_run(tmp_path / "a", rows=rows),
            make_run(tmp_path / "b", rows=rows, valid={"tokenizer": "u"}),
        ]
        result = tinyohem("report", *folders, "--out", tmp_path / "page.html")
        assert result.code == 0
        assert "warning: These runs have different tokenizers" in result.err
        assert "Validation bits per byte by tokens" in (tmp_path / "page.html").read_text()

    @pytest.mark.parametrize("spoil", ["no run", "no metrics", "damaged", "out is a folder"])
    def test_bad_input_writes_nothing(
        self, tinyohem: tiny.Command, make_run, tmp_path: Path, spoil: str
    ) -> None:
        folder, out = make_run(tmp_path / "a"), tmp_path / "page.html"
        if spoil == "no run":
            folder = tmp_path / "nowhere"
        elif spoil == "no metrics":
            (folder / "metrics.jsonl").unlink()
            (folder / "eval.json").unlink()
        elif spoil == "damaged":
            (folder / "metrics.jsonl").write_text('{"step": 1}\n{"st\n')
        else:
            out.mkdir()
        before = tiny.snapshot(tmp_path)
        result = tinyohem("report", folder, "--out", out)
        assert (result.code, result.out) == (2, "")
        error, hint = result.err.splitlines()
        assert error.startswith("error: ")
        assert hint.startswith("hint: ")
        assert tiny.snapshot(tmp_path) == before

    @pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
    def test_without_the_extra_it_says_what_to_install(
        self,
        tinyohem: tiny.Command,
        make_run,
        tmp_path: Path,
        package: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        result = tinyohem("report", make_run(tmp_path / "a"), "--out", tmp_path / "page.html")
        assert result.code == 2
        assert f"needs matplotlib and jinja2: import of {package} halted" in result.err
        assert '".[plots]"' in result.err
        assert not (tmp_path / "page.html").exists()
        assert not (tmp_path / "page_figures").exists()


def brightness(colour: str) -> float:
    """Return the mean of a computed `rgb(r, g, b)`, 0 to 255."""
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3
