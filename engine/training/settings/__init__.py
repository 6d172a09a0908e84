"""Settings of a training in parts, each for the room that reads it. Knows no stage's code."""
