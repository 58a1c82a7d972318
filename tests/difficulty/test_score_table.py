import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tinyohem.config.curriculum import parse_weights
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import (
    METRIC_VERSION,
    ScoreTable,
    combined_difficulty,
    open_scores,
)
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_file
from tinyohem.io.manifest import read_sealed, write_sealed


@pytest.fixture
def folder(made_up: list[str], fake_corpus, tmp_path: Path) -> Path:
    score_corpus(fake_corpus((*made_up[:60], "🎉")), tmp_path, workers=1)
    return tmp_path


def test_pandas_polars_and_datasets_read_it_as_it_is(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    polars = pytest.importorskip("polars")
    path = str(folder / "scores.parquet")
    tables = [
        pd.read_parquet(path),
        polars.read_parquet(path).to_pandas(),
        datasets.Dataset.from_parquet(path, cache_dir=str(folder / "cache")).to_pandas(),
    ]
    for table in tables:
        assert len(table) == 61
        assert table["flags"].iloc[-1] == "no_words,short,unfinished"
        assert math.isnan(table["mtld"].iloc[-1])
        assert table["percentile_flesch"].notna().sum() == 60


def test_a_table_of_another_corpus_is_refused(folder: Path) -> None:
    assert open_scores(folder, "f" * 64).stories == 61
    with pytest.raises(InputError, match=r"another corpus, fake \(train\)"):
        open_scores(folder, "0" * 64)


@pytest.mark.parametrize("version", [None, 1, 3])
def test_scores_of_other_metrics_are_refused_by_name(folder: Path, version: int | None) -> None:
    manifest = read_sealed(folder / "manifest.json")
    assert manifest.pop("metric_version") == METRIC_VERSION == 2
    write_sealed(
        folder / "manifest.json", manifest | ({"metric_version": version} if version else {})
    )
    with pytest.raises(
        InputError, match=f"scores of metric version {version or 1}, not 2"
    ) as caught:
        open_scores(folder)
    assert caught.value.hint == "score the corpus again, into another folder"


@pytest.mark.parametrize(
    "damage", ["no manifest", "no scores", "cut", "flip", "not json", "format"]
)
def test_a_damaged_folder_is_an_input_error(folder: Path, damage: str) -> None:
    manifest, scores = folder / "manifest.json", folder / "scores.parquet"
    match damage:
        case "no manifest":
            manifest.unlink()
        case "no scores":
            scores.unlink()
        case "cut":
            scores.write_bytes(scores.read_bytes()[:-100])
        case "flip":
            content = bytearray(scores.read_bytes())
            content[100] ^= 1
            scores.write_bytes(content)
        case "not json":
            manifest.write_text("{")
        case "format":
            manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError):
        open_scores(folder)


def test_damage_that_the_manifest_vouches_for_is_an_input_error(folder: Path) -> None:
    """A stranger's manifest may agree with whatever lies beside it."""
    scores, manifest = folder / "scores.parquet", read_sealed(folder / "manifest.json")
    sound, refused = scores.read_bytes(), 0
    for at in range(4, 44):
        scores.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        described = {**manifest, "scores_sha256": hash_file(scores)}
        write_sealed(folder / "manifest.json", described)
        try:
            table = open_scores(folder)
            list(table.batches())
            table.column("row")
        except InputError:
            refused += 1
    assert refused > 20


def test_a_table_that_ends_early_is_an_input_error(folder: Path) -> None:
    table = open_scores(folder)
    manifest = table.manifest.model_copy(update={"stories": 62})
    with pytest.raises(InputError, match="61 rows can be read"):
        ScoreTable(folder, manifest).column("row")


def test_weights_are_read_and_checked() -> None:
    assert parse_weights("mtld") == {"mtld": 1}
    assert parse_weights("mtld=2, flesch") == {"mtld": 2, "flesch": 1}
    for wrong in ("", "mtld=x", "mtld=0", "mtld=-1", "mtld=inf", "mtld=nan", "mtld,mtld", "mtld,"):
        with pytest.raises(InputError):
            parse_weights(wrong)


def test_combined_is_the_weighted_mean_of_percentiles_or_undefined(folder: Path) -> None:
    table = open_scores(folder)
    combined = combined_difficulty(table, {"mtld": 3, "flesch": 1})
    expected = 0.75 * table.percentile("mtld") + 0.25 * table.percentile("flesch")
    np.testing.assert_allclose(combined, expected)
    assert np.isnan(combined[-1])
    assert not np.isnan(combined[:-1]).any()
