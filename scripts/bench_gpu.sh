#!/usr/bin/env bash
# Time training on one CUDA GPU; needs no network. Meant to take under 8 minutes on an H100: no GPU
# run has been made yet.
#
#   scripts/bench_gpu.sh                         # what it finds lands in runs/bench-gpu
#   scripts/bench_gpu.sh --out FOLDER FLAG…      # flags go to `tinyohem bench` and `tinyohem train`
#   PYTHON=python3 scripts/bench_gpu.sh          # another Python than the checkout's own .venv
#
# First every kind of step, plain and through torch.compile, beside bare bfloat16 products of the
# trunk's shapes; then `2m` on 39M tokens of the built-in sample. table.md holds the result.
set -euo pipefail
here="$(pwd)"
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1

fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 2; }

case "${1:-}" in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
out="$PWD/runs/bench-gpu"
if [ "${1:-}" = --out ]; then
  [ -n "${2:-}" ] || fail "--out needs a folder" "scripts/bench_gpu.sh --out FOLDER"
  out="$2"; [[ $out = /* ]] || out="$here/$out"; shift 2
fi
python="${PYTHON:-.venv/bin/python}"
command -v "$python" > /dev/null ||
  fail "there is no Python at $python" "run \`make test\` once, or name another one with PYTHON="
mkdir -p "$out"

# The checkout as it is, installed or not: only the names of two packages differ from their folders.
names="$(mktemp -d)"
trap 'rm -r "$names"' EXIT
ln -s "$PWD/cli" "$names/tinyohem_cli"
ln -s "$PWD/recipes" "$names/tinyohem_recipes"
export PYTHONPATH="$PWD:$names${PYTHONPATH:+:$PYTHONPATH}" TINYOHEM_DATA="$out/data"
tinyohem=("$python" -m tinyohem_cli)

# 256 × 256 tokens a step: a GPU idles on the recipe's own 8 × 256.
common=(--set training.batch_size=256 "$@")
[[ " $* " = *" --device"* ]] || common+=(--device cuda)
bench() {
  "${tinyohem[@]}" bench "${common[@]}" --rounds 20 --json "$@" > "$out/bench.part" &&
    mv "$out/bench.part" "$out/bench.json"
}
# The plain steps first: where compiling fails, theirs are there.
bench
bench --compile || echo "warning: nothing was measured through torch.compile" >&2
run="$(mktemp -d "$out/2m-XXXXXX")/run"
"${tinyohem[@]}" train "${common[@]}" --compile --dataset sample --model 2m --tokens 39M \
  --set training.eval_tokens=20000 --out "$run" >&2
"$python" scripts/bench_gpu.py "$out/bench.json" "$run" > "$out/table.md"
cat "$out/table.md"
