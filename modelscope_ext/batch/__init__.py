"""Batches of files: planning, storage, and Ray."""
