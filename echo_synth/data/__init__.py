"""From files to arrays: CAMUS, the phantom, the nnU-Net raw format, condition maps, prepared arrays."""
