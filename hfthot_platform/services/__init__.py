"""What the platform does with what is stored.  Services do not know each other; they meet in `app`."""
