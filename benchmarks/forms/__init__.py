"""What bench_layers.py measures on a GPU."""
