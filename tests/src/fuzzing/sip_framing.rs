//! One stream in any chunks is cut at the same places, and a datagram and a stream agree on every
//! message: where they did not, a second one could be smuggled past.

use bytes::{Bytes, BytesMut};
use edge_user::sip::{Fault, Frame, Framer, HeaderName, Limits, Message};

/// What a stream holds, in chunks of these lengths: messages and pings, and the fault at its end.
fn frames(stream: &[u8], chunks: &[u8]) -> (Vec<Option<Bytes>>, Option<Fault>) {
    let mut framer = Framer::new(Limits::default());
    let mut buffer = BytesMut::new();
    let (mut frames, mut at) = (vec![], 0);
    let mut chunks = chunks.iter().map(|chunk| usize::from(*chunk) + 1).cycle();
    loop {
        match framer.next(&mut buffer) {
            Ok(Some(Frame::Message(message))) => frames.push(Some(message.bytes().clone())),
            Ok(Some(Frame::Ping)) => frames.push(None),
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
    let first = whole.iter().flatten().next();
    match (datagram, first, fault) {
        (Ok(message), Some(first), _) => {
            assert_eq!(message.bytes(), first);
        }
        (Ok(message), None, fault) => {
            assert!(message.header(HeaderName::ContentLength).is_none());
            assert_eq!(fault, Some(Fault::Missing(HeaderName::ContentLength)));
        }
        (Err(error), Some(_), _) => panic!("only a stream takes it: {error}"),
        (Err(error), None, Some(fault)) => assert_eq!(error.fault, fault),
        (Err(error), None, None) => {
            assert!(matches!(
                error.fault,
                Fault::Unfinished | Fault::Truncated | Fault::BareLineEnd
            ));
        }
    }
}
