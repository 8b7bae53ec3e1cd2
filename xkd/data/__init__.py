"""From a named dataset revision to tensors: fetch, prepare, read, augment."""
