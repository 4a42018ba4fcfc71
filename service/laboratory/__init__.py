"""Many analyses, one question."""
