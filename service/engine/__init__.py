"""Admission, threads and devices."""
