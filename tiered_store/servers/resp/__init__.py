"""The Redis door: as much of RESP2 as caches use."""
