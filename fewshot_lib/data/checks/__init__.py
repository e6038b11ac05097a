"""What is wrong with a data set: leaks, duplicates, and what inspect says."""
