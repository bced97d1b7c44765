//! Partners, discovery rules, identity and admission. No sockets.

mod address;
mod identity;

pub use address::{AddressFault, usable};
pub use identity::*;
