"""The model that ranks reticulin tiles by their fibres."""
