"""Other people's drivers and tools, directly and through the proxy."""
