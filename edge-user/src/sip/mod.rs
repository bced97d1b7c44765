//! SIP: messages, framing, editing and transactions. No sockets, no clock, no policy.

/// A SIP message: its bytes and an index into them.
#[derive(Clone, Debug)]
pub struct Message {
    _bytes: bytes::Bytes,
}

/// Why bytes are no SIP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The head is longer than allowed.
    #[error("the head is too long")]
    HeadTooLong,
}
