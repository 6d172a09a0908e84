"""What label numbers mean: a data set's own names, the label map, the classes of an export."""
