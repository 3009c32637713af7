"""The plugin platform: manifests, trust, wasmtime, limits, lifecycle."""
