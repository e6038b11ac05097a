"""Your own data: files and folders, and the split of their classes."""
