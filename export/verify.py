"""How far a bundle's engines are from the network.

For exporters: `compare`, `require`, `sample_images` of `export/comparison.py`.
"""

from export.comparison import LABEL_TOLERANCE, LOGIT_TOLERANCE, Comparison, compare, require, sample_images

__all__ = ["LABEL_TOLERANCE", "LOGIT_TOLERANCE", "Comparison", "compare", "require", "sample_images"]
