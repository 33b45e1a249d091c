#!/usr/bin/env bash
# LILA against ERM distillation and the frozen encoder on real frames (docs/results.md, "Real frames: DAVIS, 2,000 steps").
# Hardware: two CPU cores. Time: 92 s for the cues of 8 train sequences × 20 frames, then about 26 minutes of one thread per run (6 runs).
# docs/results.md was measured on those frames and 3 val sequences; other frames give other scores.
#
# DATA holds davis/ (JPEGImages, Annotations, ImageSets and, as 16-bit PNGs in millimeters, Depth/480p) and
# weights/{vit_tiny_patch16_224,raft_small}.pth.
#
# docs/experiments/davis.sh DATA [RUN]     (run again to resume)
set -euo pipefail

data=$1 run=${2:-runs/davis}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

lila-cues build --dataset davis --root "$data/davis" --store "$run/cues.zarr" --profile small \
    --encoder vit_tiny_patch16_224 --encoder-weights "$data/weights/vit_tiny_patch16_224.pth" \
    --depth "files:$data/davis/Depth/480p" --flow raft_small --flow-weights "$data/weights/raft_small.pth"
lila-train ablate --store "$run/cues.zarr" --data "$data/davis" --out "$run" --rows erm --seeds 3 --steps 2000 \
    --set crop_size=192 --set batch_size=2 --set max_gap=5 --set schedule=cosine --set warmup_steps=100 \
    --protocol davis-knn@lila --protocol davis-lp@lila
