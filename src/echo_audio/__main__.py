"""`python -m echo_audio` is `echo-audio`."""

from echo_audio.cli import main

main()
