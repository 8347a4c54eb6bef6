"""From clicks to whole structures in a whole volume."""
