"""A tiered caching store behind a unix socket."""
