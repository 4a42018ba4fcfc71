"""Programs that use the service, and the data they send."""
