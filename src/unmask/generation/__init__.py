"""Generation: one denoising loop, replaceable decisions. Token ids in, token ids out."""
