"""Functions that guests may call, one file a permission."""
