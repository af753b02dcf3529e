"""A modest pre-training of a backbone on small images: `python -m training.pretrain`, for `train.py`."""
