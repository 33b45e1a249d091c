#!/usr/bin/env bash
# LILA on DINOv2 ViT-B/14, trained on YouTube-VOS, as in the paper. Published: DAVIS J&F 70.4 by linear probe, 74.2 by k-NN.
# Hardware: one GPU. Time: not measured here; `lila-cues plan` estimates stage one.
#
# docs/experiments/b14-youtube-vos.sh YOUTUBE_VOS DAVIS [RUN]     (run again to resume)
set -euo pipefail

videos=$1 davis=$2 run=${3:-runs/b14-youtube-vos}
store=cues/b14-youtube-vos.zarr

lila-cues build --dataset youtube-vos --root "$videos" --store "$store" --profile base
lila-train run --recipe b14-youtube-vos --store "$store" --out "$run" --num-workers 8
for protocol in davis-knn@lila davis-lp@lila; do
    lila-train eval "$protocol" --data "$davis" --weights "$run/weights.safetensors" --out "$run/scores/$protocol"
done
lila-train report "$run"/scores/davis-{knn,lp}@lila --out "$run/report"
