"""FRCRN: a frequency-recurrent convolutional recurrent network, as released, and its fast CPU code."""
