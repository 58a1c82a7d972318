from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from tinyohem.config.difficulty import Metric
from tinyohem.difficulty import score_table as table_module
from tinyohem.difficulty.add_metric import add_metric
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import ScoreTable, open_scores
from tinyohem.difficulty.shards import opening_of
from tinyohem.difficulty.summary import summarise
from tinyohem.errors import InputError

LOSS = Metric("mean_loss", "higher")


def text_of(position: int) -> str:
    return f"story {position}, " + "long " * 100


@pytest.fixture
def table(made_up: list[str], fake_corpus, tmp_path: Path, monkeypatch) -> ScoreTable:
    monkeypatch.setattr(table_module, "_BATCH_ROWS", 7)
    return score_corpus(fake_corpus(tuple(made_up[:50])), tmp_path / "scores", workers=1)


def test_an_added_metric_is_ranked_and_the_rest_is_kept(table: ScoreTable) -> None:
    before = {name: table.column(name) for name in table.manifest.columns[2:-1]}
    (table.folder / "notes.txt").write_text("mine")
    rows = np.arange(1, 50, 2)
    losses = np.random.default_rng(0).random(25)
    longer = add_metric(table, "model_loss", LOSS, rows, losses, {"checkpoint": "abc"}, text_of)

    expected = np.full(50, np.nan)
    expected[rows] = losses
    np.testing.assert_array_equal(longer.difficulty("model_loss"), expected)
    expected[rows] = 100 * (rankdata(losses) - 0.5) / 25
    np.testing.assert_allclose(longer.percentile("model_loss"), expected)
    for name, values in before.items():
        np.testing.assert_array_equal(longer.column(name), values)
    assert longer.manifest.metrics["model_loss"].undefined == 25
    assert longer.manifest.metrics["model_loss"].origin == {"checkpoint": "abc"}
    assert (table.folder / "notes.txt").read_text() == "mine"
    assert longer.manifest.columns[-1] == "flags"
    opened = open_scores(table.folder, "f" * 64).metrics["model_loss"]
    assert (opened.raw, opened.harder) == (LOSS.raw, LOSS.harder)
    summary = summarise(longer)
    assert ("model_loss", "length") in summary.correlations
    assert set(summary.examples) == set(longer.metrics)
    hardest = np.argsort(-losses)[:10]
    assert [story.to_json() for story in summary.examples["model_loss"].hardest] == [
        {
            "row": rows[at],
            "value": losses[at],
            "difficulty": losses[at],
            "opening": opening_of(text_of(at)),
        }
        for at in hardest
    ]
    easiest = summary.examples["model_loss"].easiest
    assert [story.value for story in easiest] == np.sort(losses)[:10].tolist()


def test_lower_can_be_harder(table: ScoreTable) -> None:
    rarity = Metric("rarity", "lower")
    longer = add_metric(table, "rare", rarity, np.arange(50), np.arange(50.0), {}, text_of)
    assert longer.percentile("rare")[0] == 99
    np.testing.assert_array_equal(longer.difficulty("rare"), -np.arange(50.0))
    assert summarise(longer).examples["rare"].hardest[0].row == 0


def test_a_taken_name_or_an_unknown_row_changes_nothing(table: ScoreTable) -> None:
    before = {path.name: path.read_bytes() for path in table.folder.iterdir()}
    with pytest.raises(InputError, match="percentile_mtld already"):
        add_metric(table, "mtld", LOSS, np.arange(50), np.zeros(50), {}, text_of)
    with pytest.raises(InputError, match="lacks scores of 1 stories"):
        add_metric(table, "loss", LOSS, np.array([3, 99]), np.zeros(2), {}, text_of)
    assert {path.name: path.read_bytes() for path in table.folder.iterdir()} == before
