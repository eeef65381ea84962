"""What this machine is, has, and was doing while something was measured."""
