"""Random parameters and the augmented views made from them."""
