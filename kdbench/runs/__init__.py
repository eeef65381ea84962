"""What trainings and exports leave behind: where files lie, how they are written, and what they hold."""
