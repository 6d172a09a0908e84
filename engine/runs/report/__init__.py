"""Summary, report pages and their pictures."""
