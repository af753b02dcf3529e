"""A detector for CVAT: docs/cvat.md."""
