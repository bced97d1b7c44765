//! Cuts a stream into messages (RFC 3261 section 18.3, RFC 5626 section 4.4.1).
//!
//! Progress is kept between calls: a slow sender costs one look at each of its bytes.

use bytes::{Buf, BytesMut};

use super::{
    head::{Fault, Head},
    message::{FrameError, Limits, Message, unfold},
};

/// What a stream holds.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages: no allocation for each")]
pub enum Frame {
    /// A message.
    Message(Message),
    /// A message that can be handled no further, whose end is known: the stream goes on behind it.
    Faulty(FrameError),
    /// A keep-alive, CRLF CRLF: answer with one CRLF.
    Ping,
}

/// Cuts one stream into messages.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between messages; whether one CRLF of a ping has been seen.
    Idle {
        half_ping: bool,
    },
    Head(Head),
    /// The head is whole; the body begins at `body` and ends at `end`.
    Body {
        head: Head,
        body: usize,
        end: usize,
    },
    Failed,
}

impl Framer {
    /// A framer for a new stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Idle { half_ping: false } }
    }

    /// Other limits, from the next byte on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether a message has begun and is not whole: a sender that stays here is slow or ill.
    pub fn in_message(&self) -> bool {
        matches!(self.state, State::Head(_) | State::Body { .. })
    }

    /// How many more bytes the message in progress needs at least.
    pub fn wants(&self, buffered: usize) -> usize {
        match &self.state {
            State::Body { end, .. } => end.saturating_sub(buffered),
            _ => 1,
        }
    }

    /// The next frame, taken off the front of `buffer`; `None` when it needs more bytes. Only
    /// append to `buffer` between calls. After an error the stream is out of step: close it.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let result = self.step(buffer);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Failed => return Err(FrameError::new(Fault::OutOfStep)),
                State::Idle { half_ping } => match &buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *half_ping = !*half_ping;
                        if !*half_ping {
                            return Ok(Some(Frame::Ping));
                        }
                    }
                    [] | [b'\r'] => return Ok(None),
                    [b'\r' | b'\n', ..] => return Err(FrameError::new(Fault::BareLineEnd)),
                    _ => self.state = State::Head(Head::default()),
                },
                State::Head(head) => {
                    let Some(body) = head.advance(buffer, &self.limits).map_err(FrameError::new)?
                    else {
                        return Ok(None);
                    };
                    let head = std::mem::take(head);
                    let fault = match (head.fault, head.content_length) {
                        (Some(fault), Some(length))
                            if head.endless || length > self.limits.body =>
                        {
                            Some(fault)
                        }
                        (Some(fault), None) => Some(fault),
                        (None, None) => Some(Fault::Missing(super::HeaderName::ContentLength)),
                        (None, Some(length)) if length > self.limits.body => {
                            Some(Fault::BodyTooLong)
                        }
                        _ => None,
                    };
                    if let Some(fault) = fault {
                        return Err(FrameError::with(fault, cut(buffer, head, body, body)));
                    }
                    let end = body + head.content_length.unwrap_or(0);
                    self.state = State::Body { head, body, end };
                }
                State::Body { head, body, end } => {
                    if buffer.len() < *end {
                        return Ok(None);
                    }
                    let (head, body, end) = (std::mem::take(head), *body, *end);
                    self.state = State::Idle { half_ping: false };
                    if let Some(fault) = head.fault {
                        let partial = cut(buffer, head, body, body);
                        buffer.advance(end - body);
                        return Ok(Some(Frame::Faulty(FrameError::with(fault, partial))));
                    }
                    return Ok(Some(Frame::Message(cut(buffer, head, body, end))));
                }
            }
        }
    }
}

/// Takes a message off the buffer.
fn cut(buffer: &mut BytesMut, head: Head, body: usize, end: usize) -> Message {
    let mut bytes = match end >= buffer.len() {
        // Nothing follows: the message takes the memory as it is.
        true => std::mem::take(buffer),
        false => buffer.split_to(end),
    };
    if head.folded {
        unfold(&mut bytes, &head.entries);
    }
    Message::assemble(bytes.freeze(), head, body)
}
