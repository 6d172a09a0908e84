"""What an optimiser step needs on any stage: batching, precision, averages, sharding, the pace."""
