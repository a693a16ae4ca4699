#!/usr/bin/env bash
# The source models that ship: about an hour each on one core. Run again, it continues.
#   benchmarks/pretrain.sh [FOLDER]     default benchmarks/runs
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-benchmarks/runs}

ship() { # NAME: a finished run, its model and its errors
    mkdir -p "src/matgraft/models/shipped/$1" "benchmarks/results/$1"
    cp "$runs/$1"/model.{json,safetensors} "src/matgraft/models/shipped/$1/"
    cp "$runs/$1"/{metrics.json,training.png} "benchmarks/results/$1/"
}

grow() { # NAME [OPTIONS]
    local name=$1
    shift
    matgraft pretrain mp-source --exclude-formulas-of tmo-oxides \
        --keep 'e_form_spread<=0.1' --keep 'natoms<=100' --name "$name" --out "$runs/$name" \
        --licence 'CC-BY 4.0 (Materials Project, Jain et al., APL Materials 1, 011002, 2013)' "$@"
    ship "$name"
}

grow mp-schnet-total-energy --target e_total_per_atom_mp2020 --missing drop --val-size 0.11 --epochs 100 --swa-epochs 20
grow mp-schnet-multi --target e_form_per_atom --further e_total_per_atom_mp2020,band_gap_pbe --val-size 6154
# The same network with its first property alone.
python - "$runs" <<'END'
import sys
from pathlib import Path
from matgraft import load_model
runs = Path(sys.argv[1])
load_model(runs / "mp-schnet-multi").with_card(name="mp-schnet").save(runs / "mp-schnet")
for name in ("metrics.json", "training.png"):
    (runs / "mp-schnet" / name).write_bytes((runs / "mp-schnet-multi" / name).read_bytes())
END
ship mp-schnet
grow mp-schnet-no-crmn --target e_form_per_atom --exclude-elements Cr,Mn --val-size 0.11 --epochs 36 --swa-epochs 0
