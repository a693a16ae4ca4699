#!/usr/bin/env bash
# The source models that ship: about an hour each on one core. Run again, it continues.
#   benchmarks/pretrain.sh [FOLDER]     default benchmarks/runs
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-benchmarks/runs}

ship() { # NAME: a finished run; its card holds its errors and how they fell
    mkdir -p "src/matgraft/models/shipped/$1"
    cp "$runs/$1"/{model.json,{model,closest,domain}.safetensors} "src/matgraft/models/shipped/$1/"
}

grow() { # NAME [OPTIONS]
    local name=$1
    shift
    matgraft pretrain mp-source --exclude-formulas-of tmo-oxides \
        --keep 'e_form_spread<=0.1' --keep 'natoms<=100' --name "$name" --out "$runs/$name" \
        --licence 'CC-BY 4.0 (Materials Project, Jain et al., APL Materials 1, 011002, 2013)' "$@"
}

first_head() { # NAME OF: a finished run of several properties with the first one alone
    python - "$runs" "$@" <<'END'
import sys
from pathlib import Path
from matgraft import load_model
runs, name, of = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
model = load_model(runs / of)
metrics = {part: scores for part, scores in model.card["metrics"].items() if part != "further"}
model.with_card(name=name, further=[], metrics=metrics).save(runs / name)
END
    ship "$1"
}

further=e_total_per_atom_mp2020,band_gap_pbe
grow mp-schnet-multi --target e_form_per_atom --further $further --val-size 6154 --arch wide --epochs 110
ship mp-schnet-multi
grow mp-schnet-no-crmn --target e_form_per_atom --further $further --exclude-elements Cr,Mn --val-size 0.11 --epochs 60
ship mp-schnet-no-crmn
grow mp-schnet-total-energy --target e_total_per_atom_mp2020 --missing drop --val-size 0.11 --epochs 100 --swa-epochs 20
ship mp-schnet-total-energy
# With the study's network, for its Tables 2 and 3.
grow mp-schnet-multi-arch1 --target e_form_per_atom --further $further --val-size 6154
first_head mp-schnet-arch1 mp-schnet-multi-arch1
# The wide network goes on with its first label alone, half of which is what it and a smaller one say.
grow mp-schnet --target e_form_per_atom --val-size 6154 --source "$runs/mp-schnet-multi" \
    --teachers "mp-schnet-arch1,$runs/mp-schnet-multi" --epochs 30 --rate 3e-4
ship mp-schnet
