"""An ML backend for Label Studio: docs/label-studio.md."""
