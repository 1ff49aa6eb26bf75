"""Which kernels to pool, when, and with what weight: measured on a user's model and data."""
