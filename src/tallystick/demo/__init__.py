"""What `tallystick demo` runs on: a local provider server, so that every scene works without a key or the internet."""
