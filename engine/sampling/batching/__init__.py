"""Many volumes on one device: which windows share a batch, the loop, and decoding beside it."""
