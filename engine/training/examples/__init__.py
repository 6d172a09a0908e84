"""Training examples: which cases, what is cached of them, how examples are drawn."""
