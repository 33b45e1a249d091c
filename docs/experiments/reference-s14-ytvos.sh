#!/usr/bin/env bash
# LILA on ViT-S/14 with the settings of the published code where they differ from the paper: depth by Depth Anything V2 Large, the later frame
# is the context, features are refined on the view in the training step, weight decay 1e-4, a schedule in steps (docs/method.md, "Options where
# sources differ"). Depth Anything V2 Large is under CC BY-NC 4.0: neither it nor what is made with it may be used commercially.
# Hardware: one GPU. Time: not measured here. No published result of its own: compare with s14-youtube-vos.sh.
#
# docs/experiments/reference-s14-ytvos.sh YOUTUBE_VOS DAVIS [RUN]     (run again to resume)
set -euo pipefail

videos=$1 davis=$2 run=${3:-runs/reference-s14-ytvos}
store=cues/reference-s14-ytvos.zarr

lila-cues build --dataset youtube-vos --root "$videos" --store "$store" --profile small --depth depth_anything_v2_large
lila-train run --recipe reference-s14-ytvos --store "$store" --out "$run" --num-workers 8
for protocol in davis-knn@lila davis-lp@lila; do
    lila-train eval "$protocol" --data "$davis" --weights "$run/weights.safetensors" --out "$run/scores/$protocol"
done
lila-train report "$run"/scores/davis-{knn,lp}@lila --out "$run/report"
