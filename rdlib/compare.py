"""`python -m rdlib.compare OURS REFERENCE`: says whether a batch reproduced the committed reference."""

import sys
from pathlib import Path

from rdlib.results import read_runs
from rdlib.tables import comparison_summary

if __name__ == "__main__":
    ours, reference = (read_runs(Path(folder)) for folder in sys.argv[1:3])
    print(comparison_summary(ours, reference))
