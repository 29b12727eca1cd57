"""The CRSH door: what ccache 4.13 and later speak with a storage helper."""
