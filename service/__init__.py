"""The attention-analysis service."""
