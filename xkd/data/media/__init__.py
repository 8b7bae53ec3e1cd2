"""Media files: how any source file is decoded, and how prepared clips are written and read."""
