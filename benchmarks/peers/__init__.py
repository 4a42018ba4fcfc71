"""Servers that do the same job, each as its own project's documentation recommends."""
