"""Whether a dataset or a run is still what it was made as. Reads only."""
