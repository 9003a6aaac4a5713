"""The MDS tree from analyser values."""
