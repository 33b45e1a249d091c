#!/usr/bin/env bash
# LILA, self-distillation alone and ERM distillation against the frozen encoder on real frames (docs/results.md, "Real frames").
# Hardware: two CPU cores. Time: 20 minutes for the cues, 30 for the sweep, then about 90 for each three of the nine runs,
# which are trained side by side.
#
# DATA holds davis/ (30 train and 5 val sequences of 30 frames in the layout of DAVIS 2016: JPEGImages, Annotations, ImageSets
# and, as 16-bit PNGs in millimeters, Depth/480p) and weights/{vit_tiny_patch16_224,raft_small}.pth.
#
# docs/experiments/davis-real.sh DATA [RUN]     (run again to resume)
set -euo pipefail

data=$(cd "$1" && pwd) run=${2:-runs/davis-real}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

part() { # FOLDER LIST LINES: the sequences of these lines of train.txt in a folder of their own
    mkdir -p "$1/ImageSets/480p"
    sed -n "$3p" "$data/davis/ImageSets/480p/train.txt" > "$1/ImageSets/480p/$2.txt"
    ln -sfn "$data/davis/JPEGImages" "$data/davis/Annotations" "$1"
}

build() { # FOLDER STORE
    lila-cues build --dataset davis --root "$1" --store "$2" --profile small --shard-clips 3 --workers 2 \
        --encoder vit_tiny_patch16_224 --encoder-weights "$data/weights/vit_tiny_patch16_224.pth" \
        --depth "files:$data/davis/Depth/480p" --flow raft_small --flow-weights "$data/weights/raft_small.pth"
}

part "$run/train" train 1,24
part "$run/rest" train 25,30
build "$run/train" "$run/train.zarr"
build "$run/rest" "$run/rest.zarr"
lila-cues merge "$run/cues.zarr" "$run/train.zarr" "$run/rest.zarr"

# The sweep: trained on the first 24 train sequences, scored on 15 frames of each of the last six.
mkdir -p "$run/heldout/ImageSets/480p"
cp "$run/rest/ImageSets/480p/train.txt" "$run/heldout/ImageSets/480p/val.txt"
while read -r name; do
    for kind in JPEGImages Annotations; do
        mkdir -p "$run/heldout/$kind/480p/$name"
        ln -sf "$data/davis/$kind/480p/$name"/000{0[0-9],1[0-4]}.* "$run/heldout/$kind/480p/$name"
    done
done < "$run/heldout/ImageSets/480p/val.txt"
settings=(--recipe demo --set crop_size=144 --set batch_size=1 --set max_gap=5 --set warmup_steps=50 --set decoder_width=32)
lila-train ablate --store "$run/train.zarr" --data "$run/heldout" --out "$run/sweep" --rows full --seeds 1 --steps 400 --jobs 2 \
    "${settings[@]}" --vary init=pca --vary "init=pca lr=3e-4" --vary batch_size=2 --vary lr=3e-4 --vary crop_size=224 --vary max_gap=1

lila-train ablate --store "$run/cues.zarr" --data "$data/davis" --out "$run/study" --rows self-distillation,erm --seeds 3 --steps 6000 \
    --score-at 500,1000,2000,4000 --jobs 3 --protocol davis-knn@lila --protocol davis-lp@lila --fast-probe \
    "${settings[@]}" --set init=pca --set lr=3e-4 --set ema=0.999
