"""Training data: corpora from folders, rooms, mixtures."""
