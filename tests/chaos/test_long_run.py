"""A long run stays as it began: its memory, its open files, the size of its log."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
import tiny

pytestmark = pytest.mark.slow

STEPS = 10_000


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("score", ["loss", "excess_loss"])
def test_memory_and_open_files_stay_flat(corpus: Path, tmp_path: Path, score: str) -> None:
    flags = tiny.flags(
        corpus,
        training__steps=STEPS,
        training__log_every=10,
        training__eval_every=STEPS // 10,
        training__save_every=STEPS // 10,
        ohem__ratio=0.5,
        ohem__score=score,
    )
    command = [sys.executable, "-m", "tinyohem_cli", "train", *flags, f"--out={tmp_path / 'run'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory, files = [], []
    saved = tmp_path / "run" / "checkpoints" / "step_001000"
    while process.poll() is None:
        if saved.exists() or memory:  # warm: it has evaluated and saved once
            try:
                memory.append(resident_kb(process.pid))
                files.append(len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
            except (OSError, IndexError):  # it ends just now
                break
        time.sleep(0.05)
    assert process.wait() == 0
    tenth = len(memory) // 10
    first, last = median(memory[:tenth]), median(memory[-2 * tenth : -tenth])  # ahead of the export
    log = tmp_path / "run" / "metrics.jsonl"
    rows = tiny.read_metrics(tmp_path / "run")
    size = log.stat().st_size / len(rows)
    print(
        f"\n{score}: {STEPS:,} steps; memory {first / 1024:.1f} to {last / 1024:.1f} MB, "
        f"{last / first - 1:+.2%}; open files {median(files)}; {size:.0f} bytes a row of the log"
    )
    assert last <= 1.02 * first
    assert median(files[-2 * tenth : -tenth]) <= median(files[:tenth])  # one more while saving
    assert size * 20_000 < 100e6  # no run logs more rows
