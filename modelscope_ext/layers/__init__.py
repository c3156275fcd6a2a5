"""Building blocks of the networks, a file each."""
