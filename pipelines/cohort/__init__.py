"""The stages of a cohort run, as plain functions, and the Ray Data graph over them."""
