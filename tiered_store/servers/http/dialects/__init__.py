"""What build tools speak over HTTP, one module each."""
