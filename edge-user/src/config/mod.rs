//! The configuration: TOML text to a validated [`Config`].
//!
//! Nothing is changed anywhere before the whole file is valid. Errors name the file, the line,
//! the column and the mend.

mod model;

pub use model::*;
