"""HTTP and nothing else: one file a resource."""
