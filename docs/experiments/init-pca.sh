#!/usr/bin/env bash
# What a start as a linear upsampler of the encoder (init=pca) and a moving average of the decoder (ema=0.999) change in short runs:
# J&F by local k-NN after 200, 400 and 1,000 steps, three seeds each, on real frames of DAVIS.
# Hardware: two CPU cores. Time: not measured here; 27 runs, 14,400 steps. The data are those of docs/experiments/davis.sh.
#
# docs/experiments/init-pca.sh DATA [RUN]     (run again to resume)
set -euo pipefail

data=$1 run=${2:-runs/init-pca}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

lila-cues build --dataset davis --root "$data/davis" --store "$run/cues.zarr" --profile small \
    --encoder vit_tiny_patch16_224 --encoder-weights "$data/weights/vit_tiny_patch16_224.pth" \
    --depth "files:$data/davis/Depth/480p" --flow raft_small --flow-weights "$data/weights/raft_small.pth"
scores=()
for seed in 0 1 2; do
    for change in init=default init=pca ema=0.999; do
        for steps in 200 400 1000; do
            out="$run/$change-$steps-seed-$seed" score="$run/scores/$change-$steps-seed-$seed"
            lila-train run --recipe demo --store "$run/cues.zarr" --out "$out" --steps "$steps" --seed "$seed" \
                --crop-size 144 --set max_gap=5 --set "$change"
            lila-train eval davis-knn@lila --data "$data/davis" --weights "$out/weights.safetensors" --out "$score"
            scores+=("$score")
        done
    done
done
lila-train report "${scores[@]}" --out "$run/report"
