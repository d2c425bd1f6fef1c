"""The server's HTTP face: a plain ASGI application over an engine, its protocols, limits, keys, metrics and page."""
