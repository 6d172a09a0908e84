"""The stages: each is one class that says what it needs, learns and leaves."""
