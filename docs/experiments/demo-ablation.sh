#!/usr/bin/env bash
# The paper's ablations on rendered scenes (docs/results.md, "Rendered scenes"): J&F 81.8 ± 0.9 for LILA, 64.6 ± 3.5 for ERM
# distillation, 69.2 for the encoder.
# Hardware: two CPU cores. Time: a few minutes per row and seed; ROWS=erm trains the two rows of docs/results.md only.
#
# docs/experiments/demo-ablation.sh [RUN] [SCENES]     (run again to resume)
set -euo pipefail

run=${1:-runs/demo} scenes=${2:-data/demo} rows=${ROWS:-all}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

lila-cues build --dataset demo --root "$scenes" --store "$run/cues.zarr" --seed 0
lila-train ablate --store "$run/cues.zarr" --data "$scenes/heldout" --out "$run/ablations" --steps 150 --rows "$rows" --seeds 3
