"""Measurements of the daemon beside other servers, and the demo. See README.md in this directory."""
