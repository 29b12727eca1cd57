"""Settings: models, and where their values come from."""
