"""The generating jobs: each says which cases and rows it wants; `generate` does the rest."""
