"""Other people's networks, timed as their owners run them."""
