//! One stream in any chunks is cut at the same places, and a datagram and a stream agree on every
//! message: where they did not, a second one could be smuggled past.

use bytes::{Bytes, BytesMut};
use edge_user::sip::{Fault, Frame, Framer, HeaderName, Limits, Message};

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Message(Bytes),
    Faulty(Fault),
    Ping,
}

/// What a stream holds, in chunks of these lengths, and the fault at its end.
fn frames(stream: &[u8], chunks: &[u8]) -> (Vec<Piece>, Option<Fault>) {
    let mut framer = Framer::new(Limits::default());
    let mut buffer = BytesMut::new();
    let (mut frames, mut at) = (vec![], 0);
    let mut chunks = chunks.iter().map(|chunk| usize::from(*chunk) + 1).cycle();
    loop {
        match framer.next(&mut buffer) {
            Ok(Some(Frame::Message(message))) => {
                frames.push(Piece::Message(message.bytes().clone()));
            }
            Ok(Some(Frame::Faulty(error))) => frames.push(Piece::Faulty(error.fault)),
            Ok(Some(Frame::Ping)) => frames.push(Piece::Ping),
            Ok(None) if at == stream.len() => return (frames, None),
            Ok(None) => {
                let end = stream.len().min(at + chunks.next().unwrap_or(stream.len()));
                buffer.extend_from_slice(&stream[at..end]);
                at = end;
            }
            Err(error) => {
                let again = framer.next(&mut buffer).expect_err("a stream out of step stays so");
                assert_eq!(again.fault, Fault::OutOfStep);
                return (frames, Some(error.fault));
            }
        }
    }
}

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let (chunks, stream) = rest.split_at(rest.len().min(usize::from(*count % 8) + 1));
    if chunks.is_empty() {
        return;
    }
    let (whole, fault) = frames(stream, &[255; 1]);
    assert_eq!((whole.clone(), fault), frames(stream, chunks));
    // The first message as a datagram is the same bytes.
    let datagram = Message::parse_datagram(Bytes::copy_from_slice(stream), &Limits::default());
    let first = whole.iter().find(|piece| **piece != Piece::Ping);
    match (datagram, first, fault) {
        (Ok(message), Some(Piece::Message(first)), _) => {
            assert_eq!(message.bytes(), first);
        }
        (Err(error), Some(Piece::Faulty(fault)), _) => assert_eq!(error.fault, *fault),
        (Ok(message), None, fault) => {
            assert!(message.header(HeaderName::ContentLength).is_none());
            assert_eq!(fault, Some(Fault::Missing(HeaderName::ContentLength)));
        }
        (Err(error), None, Some(fault)) => assert_eq!(error.fault, fault),
        (Err(error), None, None) => {
            // Of a faulty head whose end is known the body is waited for.
            assert!(matches!(
                error.fault,
                Fault::Unfinished
                    | Fault::Truncated
                    | Fault::BareLineEnd
                    | Fault::StartLine
                    | Fault::Missing(_)
                    | Fault::Duplicate(_)
            ));
        }
        (datagram, first, _) => panic!("they differ: {datagram:?}, {first:?}"),
    }
}
