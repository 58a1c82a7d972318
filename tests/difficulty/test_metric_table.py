"""The table of metrics: every row is computed, stored, summarised and documented."""

import json
import subprocess
import sys
from pathlib import Path

import tiny

from tinyohem.config.difficulty import ADDED_METRICS, METRICS
from tinyohem.difficulty.corpus_percentiles import table_schema
from tinyohem.difficulty.score_batch import ScoringRules, score_batch, score_schema

# What a metric takes: a row of the table, and a function of its raw values.
_NEW_METRIC = """
import json, sys
from pathlib import Path

import numpy as np

from tinyohem.config.difficulty import METRICS, Metric

METRICS["capitals"] = Metric("capital_share", "lower", "share of capitals", "without text")

from tinyohem.difficulty import score_batch as module

score_batch = module.score_batch
module.score_batch = lambda texts, rules: {
    **score_batch(texts, rules),
    "capital_share": np.array([sum(c.isupper() for c in t) / max(1, len(t)) for t in texts]),
}

from tinyohem.config.data import DataConfig
from tinyohem.difficulty.score_table import open_scores
from tinyohem.report.score_difficulty import score_difficulty

folder = Path(sys.argv[2])
rules = module.ScoringRules()
report = score_difficulty(DataConfig(dataset=sys.argv[1]), str(folder), rules, workers=1)
table = open_scores(folder)
found = {
    "raw": table.column("capital_share").tolist(),
    "percentile": table.percentile("capitals").tolist(),
    "json": report.to_json()["metrics"]["capitals"],
    "hardest": report.summary.examples["capitals"].hardest[0].row,
    "page": "Histogram of capitals" in (folder / "report.html").read_text(),
}
from tinyohem_cli.score_difficulty import EPILOG
print(json.dumps({**found, "help": EPILOG}))
"""


def test_every_metric_of_the_table_is_computed_stored_and_documented(
    tinyohem: tiny.Command,
) -> None:
    scores = score_batch(["A cat sat."], ScoringRules())
    assert list(scores) == score_schema(METRICS).names
    told = " ".join(tinyohem("score-difficulty", "--help").out.split())
    chosen = tinyohem("recipes", "show").out
    for name, metric in METRICS.items():
        assert metric.raw in scores
        assert (metric.measure or metric.raw) in scores
        assert {metric.raw, f"difficulty_{name}", f"percentile_{name}"} <= set(
            table_schema(METRICS).names
        )
        assert f"{name}: {metric.label}; {metric.harder} is harder" in told
        assert name in chosen
    for name, metric in ADDED_METRICS.items():
        assert f"{name}: see {metric.option}" in told
        assert name in chosen


def test_a_new_metric_needs_one_row_and_one_function(tmp_path: Path) -> None:
    stories = tiny.write_stories(tmp_path / "s.jsonl", ["A cat.", "THE END.", "one dog", "A B c d"])
    program = [sys.executable, "-c", _NEW_METRIC, str(stories), str(tmp_path / "scores")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["raw"] == [1 / 6, 7 / 8 - 1 / 8, 0, 2 / 7]
    assert found["percentile"] == [62.5, 12.5, 87.5, 37.5]
    assert (found["json"]["harder"], found["json"]["undefined"]) == ("lower", 0)
    assert found["hardest"] == 2
    assert found["page"]
    assert "capitals: share of capitals; lower is harder" in found["help"]
