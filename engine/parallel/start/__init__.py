"""Ray for the time of one job: its own or a cluster that is up, reached in seconds or refused."""
