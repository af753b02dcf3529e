"""Training and evaluation on segmentation data sets."""
