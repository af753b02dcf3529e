#!/usr/bin/env bash
# psanet18 on CamVid within about two hours of two CPU cores: a short pre-training, then small crops.
# What the bundled model was first made with (56.0 mIoU); now by camvid_gpu.sh. psanet18 without a GPU.
#
#     training/recipes/camvid_psanet18_cpu.sh CAMVID_FOLDER TINY_IMAGENET_FOLDER OUT_FOLDER
set -euo pipefail
camvid=$1 imagenet=$2 out=$3

python -m training.pretrain --data "$imagenet" --depth 18 --epochs 2 --out "$out/resnet18.pth"
python -m training.train --config training/configs/camvid_psanet18.yaml \
    data.root="$camvid" out="$out/psanet18_camvid" init="$out/resnet18.pth" \
    'model.crop_hw=[241, 241]' epochs=null iterations=1900 batch=8 workers=1 save_every=200
