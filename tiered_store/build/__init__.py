"""The build cache: what the dialects of all build tools share, above the store."""
