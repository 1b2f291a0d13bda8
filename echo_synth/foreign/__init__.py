"""Synthetic images of other programs, with masks, into datasets like our own."""
