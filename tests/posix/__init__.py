"""What POSIX and Linux promise about files, as cases that run on any directory."""
