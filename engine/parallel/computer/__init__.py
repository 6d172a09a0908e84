"""What Ray needs to know and find on this computer: where it is, a plain path, a private folder."""
