"""The published protocol on torch tensors, on a GPU: from one upload of the image to one download of labels.

Not here: which windows there are and how they fit the memory (`plan.py`), which is the same everywhere, and
what the CPU does (`crops.py`, `stitch.py`). It imports torch, and `kernels.py` Triton, so that only functions
that need it import it.
"""
