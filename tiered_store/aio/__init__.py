"""Mechanisms for asyncio that know no cache."""
