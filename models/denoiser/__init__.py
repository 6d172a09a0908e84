"""The pseudo-3D U-Net, its layers and attentions, and the 2D model of slices at a height."""
