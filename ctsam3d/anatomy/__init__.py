"""The structures we know, and what is measured of them."""
