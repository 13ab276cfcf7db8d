"""`python -m recipes.command`: the command line where the `zoo` script is not on the path."""

from recipes.command import main

main()
