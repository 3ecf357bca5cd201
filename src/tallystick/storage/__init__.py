"""Storage: the tables, the two databases, and the lane through which every write goes."""
