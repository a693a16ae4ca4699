"""One module per file format; each turns a path into a :class:`~matgraft.data.Dataset`."""
