"""The service beside its peers: the same job over HTTP, asked by wrk, in turn."""
