"""Networks: torch, einops and diffusers' AutoencoderKL. No Ray, no files but weights."""
