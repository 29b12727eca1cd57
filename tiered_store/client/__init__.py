"""The client library; light to import."""
