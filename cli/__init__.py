"""The `echosynth` command: thin commands over echo_synth."""
