"""The student, the teachers, and the form in which they are deployed."""
