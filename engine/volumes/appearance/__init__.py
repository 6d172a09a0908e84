"""What intensities mean: HU or not, background, contours, the intensity window."""
