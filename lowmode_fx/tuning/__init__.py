"""Which kernels to pool, when, and with what weight: measured on a user's model and data."""

#: Of images, that are tried: smaller ones teach too little.
LARGEST_RATIO = 4
