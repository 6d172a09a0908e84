"""How machines come up: Ray on one computer. Knows nothing of volumes or models."""
