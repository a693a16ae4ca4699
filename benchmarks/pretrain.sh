#!/usr/bin/env bash
# The source models that ship: 40 minutes to an hour each on one core. Run again, it continues.
#   benchmarks/pretrain.sh [FOLDER]     default benchmarks/runs
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-benchmarks/runs}

grow() { # NAME [OPTIONS]
    local name=$1
    shift
    matgraft pretrain mp-source --exclude-formulas-of tmo-oxides \
        --keep 'e_form_spread<=0.1' --keep 'natoms<=100' --name "$name" --out "$runs/$name" \
        --licence 'CC-BY 4.0 (Materials Project, Jain et al., APL Materials 1, 011002, 2013)' "$@"
    mkdir -p "src/matgraft/models/shipped/$name"
    cp "$runs/$name"/model.{json,safetensors} "src/matgraft/models/shipped/$name/"
    mkdir -p "benchmarks/results/$name"
    cp "$runs/$name"/{metrics.json,training.png} "benchmarks/results/$name/"
}

grow mp-schnet --target e_form_per_atom --val-size 6154
grow mp-schnet-total-energy --target e_total_per_atom_mp2020 --missing drop --val-size 0.11 --epochs 100 --swa-epochs 20
grow mp-schnet-multi --target e_form_per_atom --further e_total_per_atom_mp2020,band_gap_pbe --val-size 6154 \
    --epochs 100 --swa-epochs 20
grow mp-schnet-no-crmn --target e_form_per_atom --exclude-elements Cr,Mn --val-size 0.11 --epochs 36 --swa-epochs 0
