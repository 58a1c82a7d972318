#!/usr/bin/env bash
# Time training on one CUDA GPU; needs no network, takes under 8 minutes on an H100.
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

out="$PWD/runs/bench-gpu"
if [ "${1:-}" = --out ]; then
  out="${2:?--out needs a folder}"; [[ $out = /* ]] || out="$here/$out"; shift 2
fi
mkdir -p "$out"

# The checkout as it is, installed or not: only the names of two packages differ from their folders.
names="$(mktemp -d)"
trap 'rm -r "$names"' EXIT
ln -s "$PWD/cli" "$names/tinyohem_cli"
ln -s "$PWD/recipes" "$names/tinyohem_recipes"
export PYTHONPATH="$PWD:$names${PYTHONPATH:+:$PYTHONPATH}" TINYOHEM_DATA="$out/data"
tinyohem=("${PYTHON:-.venv/bin/python}" -m tinyohem_cli)

# 256 × 256 tokens a step: a GPU idles on the recipe's own 8 × 256.
common=(--device cuda --compile --set training.batch_size=256 "$@")
"${tinyohem[@]}" bench "${common[@]}" --rounds 20 --json > "$out/bench.json"
run="$(mktemp -d "$out/2m-XXXXXX")/run"
"${tinyohem[@]}" train "${common[@]}" --dataset sample --model 2m --tokens 39M --out "$run" \
  --set training.eval_tokens=20000 >&2
"${PYTHON:-.venv/bin/python}" scripts/bench_gpu.py "$out/bench.json" "$run" > "$out/table.md"
cat "$out/table.md"
