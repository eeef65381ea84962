"""Training: one loop for the teacher and every student method; a method is a weighting of losses."""
