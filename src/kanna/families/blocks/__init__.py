"""Parts of networks that several families share: each a `Block` of data, or what makes one."""
