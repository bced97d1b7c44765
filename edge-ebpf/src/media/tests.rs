//! Tables of what flows let through.
