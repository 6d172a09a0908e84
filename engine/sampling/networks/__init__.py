"""The networks on one device; the only files of sampling that call them."""
