"""Object stores: a client, places in it, and creation under a condition."""
