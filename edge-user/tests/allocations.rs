//! What a message asks of the allocator in the SIP core: its index, and its bytes as they go out.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use edge_user::sip::{ForwardRequest, ForwardResponse, HeaderName, Limits, Message, Received};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Counts.
struct Counting;

// SAFETY: every call goes to the system's allocator, with what it was called with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &str = "INVITE sip:bob@contoso.example SIP/2.0\r\n\
    Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK74bf9;rport\r\n\
    From: \"Alice\" <sip:alice@fabrikam.example>;tag=9fxced76sl\r\n\
    To: \"Bob\" <sip:bob@contoso.example>\r\n\
    Route: <sip:edge.contoso.example;lr>, <sip:other.contoso.example;lr>\r\n\
    Call-ID: 3848276298220188511@fabrikam.example\r\n\
    CSeq: 1 INVITE\r\n\
    Max-Forwards: 70\r\n\
    ms-diagnostics: 1\r\n\
    Content-Length: 0\r\n\r\n";

const RESPONSE: &str = "SIP/2.0 200 OK\r\n\
    Via: SIP/2.0/TLS edge.contoso.example;branch=z9hG4bK1, SIP/2.0/TLS a.example;branch=z9hG4bK2\r\n\
    From: <sip:alice@fabrikam.example>;tag=1\r\n\
    To: <sip:bob@contoso.example>;tag=2\r\n\
    Record-Route: <sip:x@edge.contoso.example;lr>\r\n\
    Call-ID: 1\r\n\
    CSeq: 1 INVITE\r\n\
    Content-Length: 0\r\n\r\n";

/// One test, so that nothing else counts.
#[test]
fn a_message_is_read_and_written_with_two_allocations() {
    let limits = Limits::default();
    let remove = [HeaderName::MsDiagnostics];
    let mut forward = ForwardRequest::new("SIP/2.0/TLS edge.contoso.example;branch=z9hG4bK0", 69);
    forward.received = Some(Received { address: [192, 0, 2, 1].into(), port: 40_000 });
    forward.record_routes = &["<sip:x@edge.contoso.example;lr>", "<sip:x@10.0.0.1;lr>"];
    forward.remove_routes = 1;
    forward.remove = &remove;
    forward.add = &[("X", "y")];
    let back = ForwardResponse {
        record_routes: &[(0, "<sip:y@edge.contoso.example;lr>")],
        ..Default::default()
    };
    for request in [true, false] {
        let text = if request { REQUEST } else { RESPONSE };
        let bytes = Bytes::from_static(text.as_bytes());
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let message = Message::parse_datagram(bytes, &limits).expect("a message");
        message.validate().expect("a good one");
        let sent = match request {
            true => forward.apply(&message),
            false => back.apply(&message),
        };
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let sent = String::from_utf8_lossy(&sent.expect("forwarded")).into_owned();
        assert_eq!(allocations, 2, "{sent}");
        let expected = match request {
            true => text
                .replace("SIP/2.0\r\n", "SIP/2.0\r\nVia: SIP/2.0/TLS edge.contoso.example;branch=z9hG4bK0\r\n\
                    Record-Route: <sip:x@edge.contoso.example;lr>\r\nRecord-Route: <sip:x@10.0.0.1;lr>\r\n")
                .replace("z9hG4bK74bf9;rport", "z9hG4bK74bf9;received=192.0.2.1;rport=40000")
                .replace("<sip:edge.contoso.example;lr>, ", "")
                .replace(": 70", ": 69")
                .replace("ms-diagnostics: 1\r\n", "")
                .replace("Length: 0\r\n", "Length: 0\r\nX: y\r\n"),
            false => text
                .replace("SIP/2.0/TLS edge.contoso.example;branch=z9hG4bK1, ", "")
                .replace("sip:x@", "sip:y@"),
        };
        assert_eq!(sent, expected);
    }
}
