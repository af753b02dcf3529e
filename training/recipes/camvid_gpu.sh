#!/usr/bin/env bash
# The CamVid models on one GPU, each stage by itself: pre-training, psanet50, psanet18 taught by it, and
# psanet18 with and without pre-training on equal, short budgets. What was cut off goes on when its stage is
# called again. What the committed models were made with, and the figures, are in training/README.md.
#
#     training/recipes/camvid_gpu.sh OUT_FOLDER STAGE...
#     CAMVID=data/camvid IMAGENET=data/tiny-imagenet training/recipes/camvid_gpu.sh runs pretrain psanet50 psanet18 compare
#
# PRETRAIN_EPOCHS, PRETRAIN_SECONDS (at most), STEPS_50, STEPS_18, STEPS_COMPARE: how long; the defaults take
# about 20 minutes of an H100. MORE: more key=value of training.train for every training. SIGTERM and Ctrl-C let
# what is at work save.
set -euo pipefail
out=$1
shift
camvid=${CAMVID:-data/camvid} imagenet=${IMAGENET:-data/tiny-imagenet}
read -ra more <<< "${MORE:-}"

declare -A working=() # the log's name by process

start() { # NAME COMMAND... - in the background; its JSON line and its log are kept
    local name=$1
    shift
    "$@" > "$out/$name.json" 2>> "$out/$name.log" &
    working[$!]=$name
}

finish() { # waits for all that was started; where one has failed, the end of its log is shown
    local pid code=0
    for pid in "${!working[@]}"; do
        wait "$pid" || {
            code=$?
            tail -n 1 "$out/${working[$pid]}.log" >&2
        }
        unset "working[$pid]"
    done
    return "$code"
}

stop() { # EXIT_CODE - lets what is at work save first
    trap '' TERM INT
    [ ${#working[@]} = 0 ] || kill -TERM "${!working[@]}" 2> /dev/null || true
    wait
    exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT

pretrain() { # DEPTH
    start "resnet$1" python3 -m training.pretrain --data "$imagenet" --depth "$1" --epochs "${PRETRAIN_EPOCHS:-20}" \
        --stride 8 --batch 256 --lr 0.2 --weight-decay 3e-4 --compile \
        ${PRETRAIN_SECONDS:+--seconds "$PRETRAIN_SECONDS"} --out "$out/resnet$1.pth"
}

train() { # NAME STEPS KEY=VALUE...
    local name=$1 steps=$2
    shift 2
    start "$name" python3 -m training.train --config training/configs/camvid_psanet18.yaml \
        --config training/configs/long/camvid.yaml data.root="$camvid" out="$out/$name" epochs=null \
        iterations="$steps" "$@" ${more[@]+"${more[@]}"}
}

mkdir -p "$out"
for stage in "$@"; do
    case $stage in # two at a time where neither fills a large GPU
        pretrain) pretrain 18 && pretrain 50 ;;
        psanet50) train psanet50_camvid "${STEPS_50:-6000}" preset=psanet50_camvid init="$out/resnet50.pth" ;;
        psanet18) train psanet18_camvid "${STEPS_18:-8000}" init="$out/resnet18.pth" \
            teacher="$out/psanet50_camvid/checkpoint.pth" ;;
        compare)
            train with_pretraining "${STEPS_COMPARE:-1400}" ema=0.99 init="$out/resnet18.pth"
            train without_pretraining "${STEPS_COMPARE:-1400}" ema=0.99
            ;;
        *) echo "there is no stage $stage: pretrain, psanet50, psanet18 or compare" >&2 && exit 2 ;;
    esac
    finish
done
