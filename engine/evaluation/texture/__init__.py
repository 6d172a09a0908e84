"""Texture and truth to the mask: what a blurred or painted volume lacks.

MS-SSIM rewards blur. These do not: each compares how much detail there is, and where, with the real
volume of the same mask.
"""
