//! The m-line that has a bundle's transport (RFC 9143: the tagged one), and what becomes of it when
//! that m-line is rejected.

use super::{
    Sdp, bytes_at,
    media::Media,
    rewrite::{Candidates, Changes, LineChange},
};

/// What an m-line says of its transport, beside ICE (RFC 8859: categories TRANSPORT and IDENTICAL).
const OF_TRANSPORT: &[&[u8]] = &[
    b"fingerprint",
    b"setup",
    b"tls-id",
    b"crypto",
    b"key-mgmt",
    b"rtcp-mux",
    b"rtcp-mux-only",
    b"rtcp-rsize",
];

/// Who has a bundle's transport from now on, and who had it: of each bundle whose transport was a
/// rejected m-line's, the next m-line that is received there.
pub(super) fn heirs(sdp: &Sdp, lines: &[LineChange]) -> Vec<(usize, usize)> {
    let rejected = |index: usize| lines.get(index) == Some(&LineChange::Reject);
    let mut heirs = Vec::new();
    for bundle in sdp.bundle() {
        let of = |index: &usize| sdp.media.get(*index);
        let has_port = |index: &&usize| of(index).is_some_and(|media| media.port != 0);
        let Some(tag) = bundle.media.iter().find(has_port).copied().filter(|tag| rejected(*tag))
        else {
            continue;
        };
        let left = || bundle.media.iter().filter(|index| !rejected(**index));
        // RFC 8843 gives the port to the first only, RFC 9143 to all.
        let next = left()
            .find(has_port)
            .or_else(|| left().find(|index| of(index).is_some_and(|media| media.bundle_only)));
        let same = |media: &Media, tag: &Media| {
            media.bundle_only || (media.port, media.address) == (tag.port, tag.address)
        };
        if let Some(next) = next
            && of(next).zip(of(&tag)).is_some_and(|(media, tag)| same(media, tag))
        {
            heirs.push((*next, tag));
        }
    }
    heirs
}

impl Changes<'_> {
    /// An m-line has the transport that another one had; `as_it_is`: with its port and its address.
    pub(super) fn inherit(
        &mut self,
        media: &Media,
        tag: &Media,
        as_it_is: bool,
        candidates: Candidates,
    ) {
        if let Some(line) = media.bundle_only_line {
            self.remove_line(line);
        }
        if as_it_is {
            self.put(media.port_at.clone(), tag.port.to_string());
            if let Some(at) = tag.address.filter(|at| Some(*at) != media.address) {
                self.connect(media, at);
            }
        }
        let sdp = self.sdp;
        let said: Vec<&[u8]> = attributes(sdp, media).map(|(_, name)| name).collect();
        let after = self.last_line(media);
        for (index, name) in attributes(sdp, tag).filter(|(_, name)| !said.contains(name)) {
            let goes = match tag.ice.iter().find(|ice| ice.line == index) {
                Some(_) if candidates == Candidates::Strip => false,
                Some(ice) => as_it_is && candidates == Candidates::Keep || !ice.candidate,
                None => OF_TRANSPORT.contains(&name),
            };
            if let Some(line) = self.line(index).filter(|_| goes) {
                self.insert_after(after, bytes_at(&sdp.text, &(line.start..line.end)));
            }
        }
    }
}

/// An m-line's attributes: line and name.
fn attributes<'s>(sdp: &'s Sdp, media: &Media) -> impl Iterator<Item = (u32, &'s [u8])> {
    media.lines.clone().filter_map(|index| {
        let line = sdp.lines.get(index as usize).filter(|line| line.kind == b'a')?;
        let value = bytes_at(&sdp.text, &(line.value_start()..line.end));
        let name = value.split(|byte| *byte == b':').next()?;
        Some((index, name.trim_ascii_end()))
    })
}
