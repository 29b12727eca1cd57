"""The wire format: sans-IO, shared by server and clients."""
