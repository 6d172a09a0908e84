"""Networks that look at images and are never trained here: for distances between populations.

Weights come from a package that is installed or from a local file, always with their sha256;
nothing is downloaded, and nothing has random weights.
"""

ST_LPIPS = "ST-LPIPS, AlexNet, vST0.0"
"""Name of the perceptual distance in results."""
