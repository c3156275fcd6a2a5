"""Dual-path networks: recurrent over time, mixing over frequency, the same weights at every frequency."""
