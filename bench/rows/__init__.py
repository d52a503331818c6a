"""The rows of bench/speed.py, a family to each file; `row.py` says what a row is."""
