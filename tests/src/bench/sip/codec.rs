//! The message core alone, beside `rsip`: index an INVITE and forward it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use edge_user::sip::{ForwardRequest, HeaderName, Limits, Message};
use rsip::{Header, prelude::HasHeaders as _};

use super::world::OUTSIDE;
use super::{Say, load::Scenario, load::request};
use crate::bench::{Row, median};

/// An INVITE of a phone is about so long.
const LENGTH: usize = 800;
const VIA: &str = "SIP/2.0/TLS sip.contoso.example:5061;branch=z9hG4bK0123456789abcdef";
const ROUTES: [&str; 2] = [
    "<sip:abcdefghijklmnopqrstuvwxyz0123456789@203.0.113.10:5061;transport=tls;lr>",
    "<sip:abcdefghijklmnopqrstuvwxyz0123456789@10.1.0.10:5061;transport=tls;lr>",
];
const ROUNDS: usize = 15;
/// Passes of one round.
const PASSES: u32 = 20_000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting what is asked of it: for the benchmark's program.
pub struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `pointer` came from `System` with this layout, and `size` is the caller's care.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Time and allocations of a pass: of what rsip does too, and with every value checked first, as the
/// proxy does with each message; rsip reads no value until it is asked for.
pub fn core(say: Say<'_>) -> Result<Vec<Row>> {
    let invite = invite();
    let limits = Limits::default();
    let ours = |check: bool| -> Result<Bytes> {
        let message = Message::parse_datagram(invite.clone(), &limits)?;
        if check {
            message.validate()?;
        }
        let mut forward = ForwardRequest::new(VIA, 69);
        forward.record_routes = &ROUTES;
        forward.remove = &[HeaderName::MsEdgeProxyMessageTrust];
        Ok(forward.apply(&message)?)
    };
    let (plain, checked) = (|| ours(false), || ours(true));
    let theirs = || with_rsip(&invite);
    ensure!(checked()?.len() > LENGTH && theirs()?.len() > LENGTH, "an INVITE was lost");
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    black_box(checked()?);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    ensure!(allocations > 0, "the program does not count allocations");
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        figures[0].push(nanoseconds(&plain)?);
        figures[1].push(nanoseconds(&checked)?);
        figures[2].push(nanoseconds(&theirs)?);
    }
    let [plain, checked, theirs] = figures.map(median);
    say(&format!(
        "core: {plain:.0} ns, {checked:.0} ns with every value checked, {allocations} allocations; \
         rsip {theirs:.0} ns"
    ));
    let row = |path: &str, unit, ours, peer, peer_value| Row {
        path: path.to_owned(),
        unit,
        ours,
        peer,
        peer_value,
    };
    Ok(vec![
        row("core index and forward", "ns", plain, "rsip", theirs),
        row("core index, check and forward", "ns", checked, "rsip, unchecked", theirs),
        row("core allocations", "each", allocations as f64, "target", 2.0),
    ])
}

/// CPU time of a pass: others' work on the machine does not count.
fn nanoseconds<T>(pass: &impl Fn() -> Result<T>) -> Result<f64> {
    let clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
    };
    let began = clock();
    for _ in 0..PASSES {
        black_box(pass()?);
    }
    Ok((clock() - began) / f64::from(PASSES))
}

/// The same edits by the typed library.
fn with_rsip(invite: &Bytes) -> Result<Vec<u8>> {
    let mut request =
        rsip::Request::try_from(&invite[..]).map_err(|error| anyhow!("rsip: {error}"))?;
    let mut headers = vec![Header::Via(VIA.into())];
    headers.extend(ROUTES.iter().map(|route| Header::RecordRoute((*route).into())));
    headers.extend(request.headers.iter().map(|header| match header {
        Header::MaxForwards(_) => Header::MaxForwards("69".into()),
        other => other.clone(),
    }));
    *request.headers_mut() = headers.into();
    Ok(request.into())
}

/// The generator's INVITE, filled up to the length.
fn invite() -> Bytes {
    let mut out = Vec::new();
    request(&mut out, Scenario::Call, (1, 1), OUTSIDE);
    let fill = LENGTH.saturating_sub(out.len() + "P-Fill: \r\n".len());
    let text = String::from_utf8_lossy(&out);
    let filled = text.replacen(
        "\r\nContent-Type",
        &format!("\r\nP-Fill: {}\r\nContent-Type", "x".repeat(fill)),
        1,
    );
    Bytes::from(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forward_the_same_invite() {
        let invite = invite();
        assert_eq!(invite.len(), LENGTH);
        let theirs = String::from_utf8(with_rsip(&invite).unwrap()).unwrap();
        assert!(theirs.contains("Max-Forwards: 69"), "{theirs}");
        assert!(theirs.contains(ROUTES[1]) && theirs.contains(VIA), "{theirs}");
    }
}
