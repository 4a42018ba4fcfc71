"""What independent normal entries would give."""
