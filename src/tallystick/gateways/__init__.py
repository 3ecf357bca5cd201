"""Payment providers: how customers pay, and who charges what was used beyond a plan."""
