"""Ray on one computer or many: how it is reached, and rows through its workers."""
