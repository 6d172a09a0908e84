"""What one sees of a training: log, progress file, trackers, pictures."""
