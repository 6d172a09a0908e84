"""Ray on one computer or many: where it is reached, and what its processes need. Starts nothing."""
