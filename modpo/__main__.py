"""`python -m modpo` is `modpo`."""

from modpo.cli import main

main()
