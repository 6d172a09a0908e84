"""A finished run is read again, byte by byte."""
