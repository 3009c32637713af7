"""The seam between sessions and plugins: hook points, order, answers."""
