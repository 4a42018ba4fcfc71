"""Encodings: bytes to a request with its tensors, and answers to bytes. One file an encoding."""
