"""A data set to prepared cases."""
