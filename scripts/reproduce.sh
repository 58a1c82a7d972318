#!/usr/bin/env bash
# Rerun the first tables of docs/results.md from a fresh clone.
#
#   scripts/reproduce.sh --dataset stories.jsonl.zst --valid valid.jsonl.zst   # hours on two cores
#   scripts/reproduce.sh --quick                          # fewer tokens, on the built-in sample
#
# --dataset and --valid take whatever `tinyohem train` takes. Repeat the command after a stop:
# finished runs are kept. The table and the report land in --out (default: runs/table), the table
# of equal seconds beside it.
set -euo pipefail
here="$(pwd)"
cd "$(dirname "$0")/.."

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
resolve() { if [ -e "$here/$1" ]; then echo "$here/$1"; else echo "$1"; fi; }

dataset=() out=runs/table quick=no
size=(--model 0.5m --tokens 4M --seeds 5)
while [ $# -gt 0 ]; do
  case "$1" in
    --quick)
      quick=yes
      size=(--model 260k --tokens 300k --seeds 3 --set training.eval_tokens=20000)
      ;;
    --dataset | --valid) dataset+=("$1" "$(resolve "${2:?$1 needs a value}")"); shift ;;
    --out) out="${2:?--out needs a value}"; [[ $out = /* ]] || out="$here/$out"; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
if [ ${#dataset[@]} -eq 0 ]; then
  if [ $quick = yes ]; then dataset=(--dataset sample)
  else printf "error: no --dataset\nhint: --quick runs on the built-in sample\n" >&2; exit 2; fi
fi

make --silent .venv/.installed-plots
tinyohem=.venv/bin/tinyohem
"$tinyohem" compare scripts/table.toml "${dataset[@]}" "${size[@]}" --out "$out"
# One run at a time: runs side by side compete for the machine.
"$tinyohem" compare "${dataset[@]}" "${size[@]}" --out "$out-seconds" --budget equal-seconds \
  --workers 1 --arm full:ohem.ratio=1.0 --arm ohem
"$tinyohem" report "$out" --out "$out/report.html"
