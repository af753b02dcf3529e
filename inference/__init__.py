"""From an image to labels, on any engine."""
