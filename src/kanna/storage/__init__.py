"""Models and files on this machine: what is here, where, how large; fetch and remove them."""
