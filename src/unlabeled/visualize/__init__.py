"""Pictures of what a network learned, and the one-file HTML report."""
