"""The experiment as data: which cells there are, which stages each takes, what decides a stage's outcome."""
