"""The one gRPC listener, pinned channels and caller identity; knows no service."""
