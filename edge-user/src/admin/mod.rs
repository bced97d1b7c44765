//! The control socket, its protocol and the command line's tables.
