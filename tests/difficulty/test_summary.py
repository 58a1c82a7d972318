import re
from pathlib import Path

import browser
import numpy as np
import pytest
from scipy.stats import spearmanr

from tinyohem.config.difficulty import SIGN, Metric
from tinyohem.difficulty import score_table as table_module
from tinyohem.difficulty.add_metric import add_metric
from tinyohem.difficulty.metrics import CompressionRule
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.difficulty.summary import QUANTILES, summarise
from tinyohem.report.difficulty_page import write_page

METRICS = ("compression_ratio", "mtld", "flesch", "length")


@pytest.fixture
def table(made_up: list[str], fake_corpus, tmp_path: Path, monkeypatch) -> ScoreTable:
    monkeypatch.setattr(table_module, "_BATCH_ROWS", 70)
    rules = ScoringRules(compression=CompressionRule(length_control="raw"))
    return score_corpus(fake_corpus(tuple(made_up)), tmp_path / "s", rules=rules, workers=1)


def test_quantiles_correlations_and_histograms_are_those_of_the_columns(table: ScoreTable) -> None:
    summary = summarise(table)
    for name in METRICS:
        values = SIGN[table.metrics[name].harder] * table.difficulty(name)
        ordered = values[np.argsort(table.difficulty(name), kind="stable")]
        ordered = ordered[~np.isnan(ordered)]
        assert summary.quantiles[name][0] == ordered[0]
        assert summary.quantiles[name][-1] == ordered[-1]
        middle = summary.quantiles[name][QUANTILES.index(50)]
        assert middle in ordered[len(ordered) // 2 - 3 : len(ordered) // 2 + 3]
        histogram = summary.histograms[name]
        counts, _ = np.histogram(values[~np.isnan(values)], histogram.edges)
        assert histogram.counts == counts.tolist()
        assert sum(histogram.counts) > 0.98 * len(ordered)
        for other in METRICS:
            rho = spearmanr(
                table.difficulty(name), table.difficulty(other), nan_policy="omit"
            ).statistic
            assert summary.correlations[name, other] == pytest.approx(rho, abs=0.01)


def test_correlations_of_stories_that_lack_a_metric_leave_them_out(table: ScoreTable) -> None:
    """Over the stories that have both, the ranks of neither metric centre on 50."""
    noise = np.random.default_rng(0).normal(0, 5, (2, table.stories))
    for name, of, values in (
        ("long", "length", table.difficulty("length") / 50 + noise[0]),
        ("rich", "mtld", table.difficulty("mtld") + noise[1]),
    ):
        has = np.flatnonzero(table.percentile(of) > 60)
        metric = Metric(name, "higher")
        table = add_metric(table, name, metric, has, values[has], {}, lambda _: "")
    correlations = summarise(table).correlations
    for one, other in ((a, b) for a in ("long", "rich") for b in (*METRICS, "long", "rich")):
        ranks = np.array([table.percentile(one), table.percentile(other)])
        both = ranks[:, ~np.isnan(ranks).any(axis=0)]
        expected = np.corrcoef(both)[0, 1]
        assert correlations[one, other] == pytest.approx(expected, abs=1e-9)
        assert correlations[other, one] == pytest.approx(expected, abs=1e-9)


def test_a_metric_that_goes_with_length_is_named(table: ScoreTable) -> None:
    summary = summarise(table)
    assert summary.correlations["compression_ratio", "length"] < -0.8
    assert "compression_ratio" in summary.confounded
    assert "flesch" not in summary.confounded


def test_examples_are_the_ends_of_the_order(table: ScoreTable, made_up: list[str]) -> None:
    examples = summarise(table).examples
    order = np.argsort(table.difficulty("length"), kind="stable")
    assert [story.row for story in examples["length"].easiest] == order[:10].tolist()
    hardest = examples["length"].hardest
    assert [story.value for story in hardest] == table.column("bytes")[order[::-1][:10]].tolist()
    assert all(made_up[story.row].startswith(story.opening.removesuffix(" …")) for story in hardest)


def test_examples_show_the_values_of_the_quantiles(
    made_up: list[str], fake_corpus, tmp_path: Path
) -> None:
    """Those by which they are ranked, and not the raw ratio that goes with length."""
    summary = summarise(score_corpus(fake_corpus(tuple(made_up)), tmp_path / "s", workers=1))
    assert summary.label("compression_ratio") == "compression_ratio, with length taken out"
    assert summary.label("flesch") == "flesch"
    for name, rising in (("compression_ratio", True), ("flesch", False)):
        ends = summary.examples[name]
        easiest, hardest = ([s.value for s in end] for end in (ends.easiest, ends.hardest))
        assert easiest == sorted(easiest, reverse=not rising)
        assert hardest == sorted(hardest, reverse=rising)
        assert (easiest[0], hardest[0]) == (
            summary.quantiles[name][0],
            summary.quantiles[name][-1],
        )


def test_the_page_is_one_file_with_everything_escaped(fake_corpus, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    attack = "<script>alert('x')</script> A cat. " * 5
    corpus = fake_corpus((attack, "A dog ran. " * 20, "🎉"), name="<b>bold</b>")
    table = score_corpus(corpus, tmp_path / "s", workers=1)
    write_page(summarise(table), table.folder)
    page = (table.folder / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;bold" in page
    assert page.count("<svg") == 4  # a histogram of each metric
    assert "://" not in page
    assert (table.folder / "histograms.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(browser.CHROMIUM is None, reason=browser.MISSING)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_a_phone_and_turns_dark(fake_corpus, tmp_path: Path, dark: bool) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    name = f"/data/{'unbreakable' * 9}.jsonl"
    corpus = fake_corpus(("A cat sat. " * 20, "A dog ran. " * 20, "x" * 300), name=name)
    table = score_corpus(corpus, tmp_path / "s", workers=1)
    write_page(summarise(table), table.folder)
    visit = browser.visit(table.folder / "report.html", tmp_path / "visit", 390, 1440, dark=dark)
    for look, width in zip(visit.looks, (390, 1440), strict=True):
        assert look["scroll_width"] == look["client_width"] == width
        assert look["outside"] == []
        assert f"Difficulty of {name}\n" in look["text"]  # no split: it is a file
        assert "3 stories, the middle half of them" in look["text"]
        values, correlations, *_ = look["heads"]
        for heads in (values, correlations):  # the last column too, without scrolling
            assert [right for _, right in heads if not 0 < right <= width] == []
        assert [head for head, _ in correlations] == ["", *(m.replace("_", " ") for m in METRICS)]
    background = [int(part) for part in re.findall(r"\d+", visit.looks[0]["background"])]
    assert (max(background) < 60) == dark
    assert visit.console == visit.requests == []


def test_the_outcome_in_a_sentence(table: ScoreTable) -> None:
    summary = summarise(table)
    q25, q75 = np.percentile(table.column("bytes"), [25, 75])
    found = re.match(
        r"400 stories, the middle half of them ([\d,]+) to ([\d,]+) bytes long, with a Flesch "
        r"reading ease of (\d+) to (\d+) \((.+)\)\. Flagged: (\d+) few words",
        summary.outcome(),
    )
    assert found
    low, high = (int(found[i].replace(",", "")) for i in (1, 2))
    assert (low, high) == (pytest.approx(q25, rel=0.05), pytest.approx(q75, rel=0.05))
    ease = table.column("flesch_reading_ease")
    assert int(found[3]) == pytest.approx(np.percentile(ease, 25), abs=1)
    assert int(found[4]) == pytest.approx(np.percentile(ease, 75), abs=1)
    assert 60 <= np.median(ease) < 70
    assert found[5] == "standard"
    assert int(found[6]) == table.manifest.flags["few_words"]


def test_a_corpus_without_a_reading_ease_says_so(fake_corpus, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = score_corpus(fake_corpus(("Кот сидит. " * 30, "Пёс бежит. " * 40)), tmp_path, workers=1)
    summary = summarise(table)
    assert "ease" not in summary.outcome()
    assert summary.outcome().endswith("Flagged: 2 not latin.")
    write_page(summary, table.folder)
    page = (table.folder / "report.html").read_text()
    assert "it is undefined where most letters are not Latin" in page
    assert "nan" not in page


def test_one_story_and_no_words_at_all_are_summarised(fake_corpus, tmp_path: Path) -> None:
    for name, texts in (("one", ("A cat sat.",)), ("none", ("🎉", "..."))):
        table = score_corpus(fake_corpus(texts), tmp_path / name, workers=1)
        summary = summarise(table)
        assert np.isnan(summary.correlations["mtld", "flesch"])
        assert ("mtld" in summary.histograms) == (name == "one")
        write_page(summary, table.folder)
