"""Pure functions of arrays and a seed that turn features into clusters, neighbours and assignments."""
