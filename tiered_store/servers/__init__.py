"""Doors: how requests reach the store."""
