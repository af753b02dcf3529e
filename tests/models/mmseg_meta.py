"""Meta of MMSegmentation's files in both forms, made on the spot: what its tools write for a small PSANet."""

from typing import Any

NAMES = ("sky", "road", "car", "tree", "person")
PALETTE = [[1, 2, 3], [128, 64, 128], [0, 0, 142], [107, 142, 35], [220, 20, 60]]

_MODEL = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True),
    decode_head=dict(
        type='PSAHead',
        in_channels=2048,
        in_index=3,
        channels=8,
        mask_size=(4, 4),
        psa_type='bi-direction',
        compact=False,
        shrink_factor=2,
        normalization_factor=1.0,
        psa_softmax=True,
        dropout_ratio=0.1,
        num_classes=5,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners={align_corners},
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type='FCNHead', in_channels=1024, in_index=2),
    train_cfg=dict(),
    test_cfg=dict({test}))
"""

_DATA_0X = """
dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes/'
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
crop_size = {crop}
data = dict(
    samples_per_gpu=2,
    train=dict(
        type='CityscapesDataset',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', img_scale={scale}, ratio_range=(0.5, 2.0)),
            dict(type='RandomCrop', crop_size={crop}, cat_max_ratio=0.75)
        ]),
    test=dict(
        type='CityscapesDataset',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='MultiScaleFlipAug',
                img_scale={scale},
                flip=False,
                transforms=[dict(type='Resize', keep_ratio=True)])
        ]))
lr_config = dict(policy='poly', power=0.9, min_lr=0.0001, by_epoch=False)
workflow = [('train', 1)]
"""

_DATA_1X = """
dataset_type = 'CityscapesDataset'
crop_size = {crop}
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    size={crop})
train_pipeline = [
    dict(type='RandomResize', scale=(9999, 9999)),
    dict(type='RandomCrop', crop_size={crop}, cat_max_ratio=0.75)
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale={scale}, keep_ratio=True),
    dict(type='LoadAnnotations')
]
test_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale={scale}, keep_ratio=True),
        ]))
tta_pipeline = [dict(type='TestTimeAug', transforms=[[dict(type='Resize', scale_factor=0.5)]])]
test_cfg = dict(type='TestLoop')
val_cfg = dict(type='ValLoop')
"""

WHOLE = "mode='whole'"
SLIDE = "mode='slide', crop_size=(769, 769), stride=(513, 513)"


def config_text(
    *,
    version: int = 0,
    test: str = WHOLE,
    align_corners: bool = False,
    crop: tuple[int, int] = (512, 1024),
    scale: tuple[int, int] = (2048, 1024),
) -> str:
    """The configuration as `Config.pretty_text` writes it."""
    data = _DATA_1X if version else _DATA_0X
    return _MODEL.format(align_corners=align_corners, test=test) + data.format(crop=crop, scale=scale)


def meta_0x(text: str | None = None) -> dict[str, Any]:
    """Of releases 0.5 to 0.30."""
    return {
        "mmseg_version": "0.5.0+b57fb2b",
        "mmcv_version": "0.5.0",
        "config": config_text() if text is None else text,
        "CLASSES": NAMES,
        "PALETTE": PALETTE,
        "time": "Sat Jun  6 14:05:37 2020",
        "epoch": 109,
        "iter": 40000,
        "env_info": "sys.platform: linux",
        "seed": None,
        "hook_msgs": {},
    }


def meta_1x(text: str | None = None) -> dict[str, Any]:
    """Of releases from 1.0."""
    return {
        "epoch": 0,
        "iter": 40000,
        "cfg": config_text(version=1) if text is None else text,
        "seed": 304,
        "experiment_name": "psanet_20231122_101010",
        "time": "20231122_101010",
        "mmengine_version": "0.10.1",
        "dataset_meta": {
            "classes": NAMES,
            "palette": PALETTE,
            "label_map": None,
            "reduce_zero_label": False,
        },
    }
