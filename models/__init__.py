"""Networks: torch, einops and diffusers' AutoencoderKL. No Ray, no files but weights."""

import logging

# One that was built for another torch says so at length whenever diffusers imports it; what there
# is to say, and whether it matters, says `xformers_fit.py` in one line.
logging.getLogger("xformers").setLevel(logging.ERROR)
