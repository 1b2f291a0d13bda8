"""The Γ-VAE: distribution, network, loss. Knows no files."""
