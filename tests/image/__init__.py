"""Builds the image and runs it as docker-compose.yml would: `python -m tests.image`."""
