#!/usr/bin/env bash
# The CamVid models on one GPU, each stage by itself: pre-training, psanet50, psanet18 taught by it, and
# psanet18 with and without pre-training on equal, short budgets. What was cut off goes on when its stage is
# called again. What the committed models were made with, and the figures, are in training/README.md.
#
#     training/recipes/camvid_gpu.sh OUT_FOLDER STAGE...
#     CAMVID=data/camvid IMAGENET=data/tiny-imagenet training/recipes/camvid_gpu.sh runs pretrain psanet50 psanet18 compare
#
# PRETRAIN_EPOCHS, PRETRAIN_SECONDS (at most), STEPS_50, STEPS_18, STEPS_COMPARE: how long; the defaults take
# about 20 minutes of an H100. MORE: more key=value of training.train for every training.
set -euo pipefail
out=$1
shift
camvid=${CAMVID:-data/camvid} imagenet=${IMAGENET:-data/tiny-imagenet}
read -ra more <<< "${MORE:-}"

logged() { # NAME COMMAND... - its JSON line and its log are kept; where it fails, the end of the log is shown
    local name=$1
    shift
    "$@" > "$out/$name.json" 2> "$out/$name.log" || {
        local code=$?
        tail -n 1 "$out/$name.log" >&2
        return "$code"
    }
}

pretrain() { # DEPTH
    logged "resnet$1" python3 -m training.pretrain --data "$imagenet" --depth "$1" --epochs "${PRETRAIN_EPOCHS:-20}" \
        --stride 8 --batch 256 --lr 0.2 --weight-decay 3e-4 --compile \
        ${PRETRAIN_SECONDS:+--seconds "$PRETRAIN_SECONDS"} --out "$out/resnet$1.pth"
}

train() { # NAME STEPS KEY=VALUE...
    local name=$1 steps=$2
    shift 2
    logged "$name" python3 -m training.train --config training/configs/camvid_psanet18.yaml \
        --config training/configs/long/camvid.yaml data.root="$camvid" out="$out/$name" epochs=null \
        iterations="$steps" "$@" ${more[@]+"${more[@]}"}
}

mkdir -p "$out"
for stage in "$@"; do
    case $stage in
        pretrain) # both at a time: neither fills a large GPU
            pretrain 18 &
            pretrain 50
            wait $!
            ;;
        psanet50) train psanet50_camvid "${STEPS_50:-6000}" preset=psanet50_camvid init="$out/resnet50.pth" ;;
        psanet18) train psanet18_camvid "${STEPS_18:-8000}" init="$out/resnet18.pth" \
            teacher="$out/psanet50_camvid/checkpoint.pth" ;;
        compare)
            train with_pretraining "${STEPS_COMPARE:-1400}" init="$out/resnet18.pth" &
            train without_pretraining "${STEPS_COMPARE:-1400}"
            wait $!
            ;;
        *) echo "there is no stage $stage: pretrain, psanet50, psanet18 or compare" >&2 && exit 2 ;;
    esac
done
