//! What `edge apply` needs beside the firewall itself: how two configurations differ, and how the
//! configured file is replaced whole. No sockets, no kernel.

mod difference;
mod file;
mod values;

pub use difference::{Difference, InterfaceChange, RuleChange, Side};
pub use file::{FileError, NewFile};
pub use values::{FieldChange, SettingChange};
