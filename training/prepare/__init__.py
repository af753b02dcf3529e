"""Data sets, from the archives that people download to checked lists. Nothing is downloaded here.

    python -m training.prepare ade20k DOWNLOADS [--out data/ade20k]

DOWNLOADS: the archives, the folder that they lie in, or the folder that they were unpacked to. What is
written fits the configurations under `training/configs` as they are: `data/<data set>/list/*.txt` hold
`image label` a line, relative to `data/<data set>`; labels are grey PNGs of class ids, 255 where nothing
counts.

    data set     list/…                                                      images
    ade20k       training, validation                                        20,210 and 2,000
    voc2012      train_aug, val; train, trainval, trainval_aug               10,582 and 1,449
    cityscapes   fine_train, fine_val; fine_trainval, fine_test,             2,975 and 500
                 coarse_train, fine_coarse_train, fine_coarse_trainval       19,998 coarse
    camvid       train, val; trainval, test                                  367 and 101
    coco         train, val: VOC's classes, to train on before VOC           of 118,287 and 5,000

Images keep their names and bytes; those of a folder on the same disk are linked and take no space.
"""
