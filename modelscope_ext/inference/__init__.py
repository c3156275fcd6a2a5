"""Inference: back ends, recordings, streams, and the `Denoiser`."""
