"""Semantically guided denoisers: SPADE U-Nets, preconditioning, losses. Knows no files."""
