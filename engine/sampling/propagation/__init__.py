"""Windows of a volume, in which order they are made, and what each is shown of its neighbours."""
