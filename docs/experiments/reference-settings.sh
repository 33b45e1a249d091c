#!/usr/bin/env bash
# LILA on ViT-S/14 with the settings of the published code where they differ from the paper: the later frame is the context, features
# are refined on the view in the training step, weight decay 1e-4 (docs/method.md, "Options where sources differ").
# Hardware: one GPU. Time: not measured here. No published result of its own: compare with s14-youtube-vos.sh, whose store it uses.
#
# docs/experiments/reference-settings.sh YOUTUBE_VOS DAVIS [RUN]     (run again to resume)
set -euo pipefail

videos=$1 davis=$2 run=${3:-runs/reference-settings}
store=cues/s14-youtube-vos.zarr

lila-cues build --dataset youtube-vos --root "$videos" --store "$store" --profile small
lila-train run --recipe s14-youtube-vos --store "$store" --out "$run" --num-workers 8 \
    --set roles=mirrored --set distilled=online --set edge_form=absolute --set weight_decay=1e-4
for protocol in davis-knn@lila davis-lp@lila; do
    lila-train eval "$protocol" --data "$davis" --weights "$run/weights.safetensors" --out "$run/scores/$protocol"
done
lila-train report "$run"/scores/davis-{knn,lp}@lila --out "$run/report"
