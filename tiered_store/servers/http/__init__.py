"""The HTTP door: the object API, and the build tools' dialects beside it. The only home of aiohttp's server side."""
