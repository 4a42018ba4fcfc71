"""The socket and the life of the process: what stands between a peer and the application."""
