"""How public data sets number and name their labels."""
