"""Server connections: who gets which, and how well the nodes are."""
