"""CRUSE: convolutional recurrent U-nets for real-time speech enhancement."""
