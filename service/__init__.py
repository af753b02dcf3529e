"""The HTTP service around one predictor per model."""
