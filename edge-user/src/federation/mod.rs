//! Partners, discovery rules, identity and admission. No sockets.

mod address;
pub mod discovery;
mod identity;
mod policy;

pub use address::{AddressFault, usable};
pub use identity::*;
pub use policy::*;
