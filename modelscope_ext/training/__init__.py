"""Training: one loop, two recipes."""
