"""Abdominal phantoms of any number."""
