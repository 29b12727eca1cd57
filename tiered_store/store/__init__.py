"""The store: reads through the tiers, writes to the origin."""
