"""What the Snakefile and make call."""
