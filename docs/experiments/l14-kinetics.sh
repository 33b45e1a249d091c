#!/usr/bin/env bash
# LILA on DINOv2 ViT-L/14, trained on Kinetics-700, as in the paper. Published: DAVIS J&F 69.3 by linear probe, 74.9 by k-NN.
# Hardware: eight GPUs (GPUS=8) and about 12 TB for the cues; fewer GPUs take the same steps more slowly. Time: not measured here;
# `lila-cues plan` estimates stage one, which docs/scaling.md spreads over a cluster.
#
# docs/experiments/l14-kinetics.sh KINETICS DAVIS [RUN]     (run again to resume)
set -euo pipefail

videos=$1 davis=$2 run=${3:-runs/l14-kinetics} gpus=${GPUS:-8}
store=cues/l14-kinetics.zarr

lila-cues build --dataset kinetics --root "$videos" --store "$store" --profile large --workers "$gpus"
torchrun --nproc-per-node "$gpus" -m lila_train run --recipe l14-kinetics --store "$store" --out "$run" --num-workers 8
for protocol in davis-knn@lila davis-lp@lila; do
    lila-train eval "$protocol" --data "$davis" --weights "$run/weights.safetensors" --out "$run/scores/$protocol"
done
lila-train report "$run"/scores/davis-{knn,lp}@lila --out "$run/report"
