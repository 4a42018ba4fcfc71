"""The wire contract as Pydantic models: what callers send and what they get back."""
