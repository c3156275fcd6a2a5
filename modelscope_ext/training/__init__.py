"""Training: configuration, the trainer that can be killed, validation."""
