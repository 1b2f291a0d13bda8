"""Leafing through a dataset in the browser: the cases, their pictures, and a server for this machine alone."""
