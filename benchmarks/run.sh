#!/usr/bin/env bash
# The learning curves that the README quotes: about an hour on two cores. Run again, it continues.
#   benchmarks/run.sh [FOLDER]     default benchmarks/runs; the reports are copied to benchmarks/results
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-benchmarks/runs}

curves() { # NAME DATA [OPTIONS]
    local name=$1 data=$2
    shift 2
    matgraft benchmark "$data" --target energy --out "$runs/$name" --seeds 5 "$@"
    mkdir -p "benchmarks/results/$name"
    cp "$runs/$name"/benchmark.{json,md,png} "benchmarks/results/$name/"
}

curves oxides-random tmo-oxides-fetiv --schemes direct,tl1,tl2,tl3,tl1/labels
curves oxides-total-energy tmo-oxides-fetiv --schemes tl1,tl2,tl3 --source mp-schnet-total-energy
curves oxides-clean tmo-oxides-clean --sizes 160 --val-size 91 --schemes direct,tl1
curves oxides-formula tmo-oxides-fetiv --sizes 100,400 --schemes direct,tl1 --group formula
curves tio2-qe tio2-qe-pbe --sizes 100 --val-size 300 --seeds 3 --schemes tl1,tl1/labels,tl1/residual
python benchmarks/tables.py --write
