//! Changes to a text: other ports and addresses, rejected m-lines, ICE lines.

use std::{net::IpAddr, ops::Range};

use bytes::Bytes;

use super::{
    Sdp, SdpError, SdpFault, address, bytes_at,
    line::Line,
    media::{IceLine, Media, Transport},
    tag,
};

/// What to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Another address for `o=`, and for the session's `c=` unless an m-line that is kept needs
    /// it. Lines that name other addresses go (`a=altc`, `a=ccap`, `a=source-filter`, a session's
    /// `a=rtcp`). m-lines that are off or carried by SIP show no address of their writer either: of
    /// the attributes of those that are off only `a=mid` is left.
    pub origin: Option<IpAddr>,
    /// One for each m-line.
    pub lines: Vec<LineChange>,
    /// What happens to ICE lines.
    pub candidates: Candidates,
}

/// A change to one m-line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineChange {
    /// None, but for [`Candidates::Strip`].
    #[default]
    Keep,
    /// It is received here. An address of all zeros stays (hold, RFC 3264 section 8.4), and so
    /// does port 0.
    Anchor {
        /// Address of ours.
        address: IpAddr,
        /// Port for RTP, or for all there is.
        rtp: u16,
        /// Port for RTCP; `None`: on the port of RTP, or there is none.
        rtcp: Option<u16>,
    },
    /// Port 0 (RFC 3264 section 6), out of its groups, and no part of a bundle. Where its bundle had
    /// its transport, the next m-line of the bundle has it from now on: port, address, and what it
    /// says of ICE, of keys and of RTCP (RFC 9143 section 7.1.3).
    Reject,
}

/// What happens to ICE lines (RFC 8839, and `x-candidate…`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Candidates {
    /// They stay.
    #[default]
    Keep,
    /// All go, also those of the session and of m-lines that are kept.
    Strip,
    /// An anchored m-line with ICE has one candidate for each component: ours. Its name and
    /// password stay. Candidates of the session, those of m-lines carried by SIP, and those of the
    /// form before RFC 5245 are stripped.
    Replace,
}

/// The changes, in order of place, and the text that they make.
pub(super) struct Changes<'s> {
    pub(super) sdp: &'s Sdp,
    edits: Vec<(Range<u32>, Vec<u8>)>,
}

/// The text with changes.
pub(super) fn rewrite(sdp: &Sdp, change: &Rewrite) -> Result<Bytes, SdpError> {
    if change.lines.len() != sdp.media.len() {
        return Err(SdpError::whole(SdpFault::LineCount));
    }
    let mut changes = Changes { sdp, edits: Vec::new() };
    let session = changes.session(change)?;
    let heirs = tag::heirs(sdp, &change.lines);
    for (index, (media, line)) in sdp.media.iter().zip(&change.lines).enumerate() {
        let of = heirs.iter().find(|(heir, _)| *heir == index).map(|(_, of)| *of);
        let tag = of.and_then(|of| sdp.media.get(of));
        changes.media(media, *line, change, (session, tag))?;
    }
    changes.groups(change);
    Ok(changes.finish())
}

impl Changes<'_> {
    pub(super) fn put(&mut self, range: Range<u32>, text: impl Into<Vec<u8>>) {
        let text = text.into();
        if bytes_at(&self.sdp.text, &range) != text {
            self.edits.push((range, text));
        }
    }

    pub(super) fn line(&self, index: u32) -> Option<Line> {
        self.sdp.lines.get(index as usize).copied()
    }

    pub(super) fn remove_line(&mut self, index: u32) {
        if let Some(line) = self.line(index) {
            self.put(line.start..line.next, "");
        }
    }

    /// A new line after one that is there, with its line end.
    pub(super) fn insert_after(&mut self, index: u32, text: impl AsRef<[u8]>) {
        let Some(line) = self.line(index) else { return };
        let own = bytes_at(&self.sdp.text, &(line.end..line.next));
        let first = self.line(0).map_or(0..0, |first| first.end..first.next);
        let (before, after) = if own.is_empty() {
            (bytes_at(&self.sdp.text, &first), &b""[..])
        } else {
            (&b""[..], own)
        };
        let text = [before, text.as_ref(), after].concat();
        self.edits.push((line.next..line.next, text));
    }

    /// `o=`, `c=` and ICE of the session; the address of its `c=` from now on.
    fn session(&mut self, change: &Rewrite) -> Result<Option<IpAddr>, SdpError> {
        let goes = |ice: &&IceLine| match change.candidates {
            Candidates::Keep => false,
            Candidates::Strip => true,
            Candidates::Replace => ice.candidate,
        };
        for ice in self.sdp.session_ice.iter().filter(goes) {
            self.remove_line(ice.line);
        }
        let connection = self.sdp.connection.as_ref();
        let now = connection.and_then(|connection| connection.address);
        let Some(origin) = change.origin else { return Ok(now) };
        if origin.is_unspecified() || address::judge(origin).is_err() {
            return Err(SdpError::whole(SdpFault::Anchor));
        }
        self.put(self.sdp.origin.connection.range.clone(), address::write(origin));
        let sdp = self.sdp;
        for index in &sdp.naming {
            self.remove_line(*index);
        }
        let needed = self.sdp.media.iter().zip(&change.lines).any(|(media, line)| {
            *line == LineChange::Keep
                && media.connection.is_none()
                && media.is_on()
                && !matches!(media.protocol, Transport::Sip)
        });
        match connection {
            Some(connection) if !needed && !now.is_some_and(|now| now.is_unspecified()) => {
                self.put(connection.range.clone(), address::write(origin));
                Ok(Some(origin))
            }
            _ => Ok(now),
        }
    }

    fn media(
        &mut self,
        media: &Media,
        line: LineChange,
        change: &Rewrite,
        (session, tag): (Option<IpAddr>, Option<&Media>),
    ) -> Result<(), SdpError> {
        if let Some(tag) = tag {
            self.inherit(media, tag, line == LineChange::Keep, change.candidates);
        }
        match line {
            // What is off already has nothing to anchor; its addresses need not be seen.
            LineChange::Keep | LineChange::Anchor { .. } if !media.is_on() => {
                if change.origin.is_some() || change.candidates == Candidates::Strip {
                    self.hide(media, change);
                }
                Ok(())
            }
            LineChange::Keep => {
                // Nothing is sent to the address of what the dialog itself carries.
                let dialog = media.protocol == Transport::Sip;
                if change.candidates == Candidates::Strip
                    || (dialog && change.candidates == Candidates::Replace)
                {
                    self.strip(media);
                }
                if dialog {
                    self.hide_address(media, change);
                }
                Ok(())
            }
            LineChange::Anchor { address, rtp, rtcp } => {
                let refuse = |fault| Err(SdpError::at(media.lines.start, fault));
                if media.ports > 1 {
                    return refuse(SdpFault::SeveralPorts);
                }
                let nowhere = address.is_unspecified() || address::judge(address).is_err();
                if nowhere || rtp == 0 || rtcp == Some(0) {
                    return refuse(SdpFault::Anchor);
                }
                self.anchor((media, tag), address, (rtp, rtcp), session);
                for index in media.naming.iter().filter(|_| change.origin.is_some()) {
                    self.remove_line(*index);
                }
                self.anchor_candidates((media, tag), address, (rtp, rtcp), change.candidates);
                Ok(())
            }
            LineChange::Reject => {
                self.put(media.port_at.clone(), "0");
                if let Some(line) = media.bundle_only_line {
                    self.remove_line(line);
                }
                self.hide(media, change);
                Ok(())
            }
        }
    }

    /// An m-line that is off shows no address of its writer.
    fn hide(&mut self, media: &Media, change: &Rewrite) {
        if change.candidates != Candidates::Keep {
            self.strip(media);
        }
        self.hide_address(media, change);
        if change.origin.is_none() {
            return;
        }
        // Any attribute may name an address (`a=path` of MSRP does), and none means anything now
        // but its name in groups.
        for index in media.lines.clone() {
            let Some(line) = self.line(index).filter(|line| line.kind == b'a') else { continue };
            if !media.mid.as_ref().is_some_and(|mid| (line.start..line.next).contains(&mid.start)) {
                self.remove_line(index);
            }
        }
    }

    /// `c=` and `a=rtcp` of an m-line to whose address nothing is sent.
    fn hide_address(&mut self, media: &Media, change: &Rewrite) {
        let Some(origin) = change.origin else { return };
        if let Some(connection) = &media.connection {
            self.put(connection.range.clone(), address::write(origin));
        }
        if let Some(rtcp) = &media.rtcp_at {
            self.remove_line(rtcp.line);
        }
        for index in &media.naming {
            self.remove_line(*index);
        }
    }

    fn strip(&mut self, media: &Media) {
        for ice in &media.ice {
            self.remove_line(ice.line);
        }
    }

    /// Port, `c=` and `a=rtcp`.
    fn anchor(
        &mut self,
        (media, tag): (&Media, Option<&Media>),
        address: IpAddr,
        (rtp, rtcp): (u16, Option<u16>),
        session: Option<IpAddr>,
    ) {
        if media.port != 0 || tag.is_some() {
            self.put(media.port_at.clone(), rtp.to_string());
        }
        let held = tag.unwrap_or(media).held_by_address();
        if !held && (media.connection.is_some() || session != Some(address)) {
            self.connect(media, address);
        }
        let port = rtcp.unwrap_or(rtp);
        match &media.rtcp_at {
            Some(at) => {
                let with_address = bytes_at(&self.sdp.text, &at.value).contains(&b' ');
                let place = if with_address || held {
                    format!(" {}", address::write(address))
                } else {
                    String::new()
                };
                self.put(at.value.clone(), format!("{port}{place}"));
            }
            None if media.protocol.is_rtp()
                && rtcp.is_some_and(|rtcp| Some(rtcp) != rtp.checked_add(1)) =>
            {
                self.insert_after(self.last_line(media), format!("a=rtcp:{port}"));
            }
            None => {}
        }
    }

    /// `c=` of an m-line.
    pub(super) fn connect(&mut self, media: &Media, address: IpAddr) {
        match &media.connection {
            Some(own) => self.put(own.range.clone(), address::write(address)),
            None => {
                let title = media.lines.start + 1;
                let titled = self.line(title).is_some_and(|line| line.kind == b'i');
                let after = if titled { title } else { media.lines.start };
                self.insert_after(after, format!("c={}", address::write(address)));
            }
        }
    }

    /// The last line of an m-line that is not empty and does not go: those of ICE and `a=bundle-only`
    /// may.
    pub(super) fn last_line(&self, media: &Media) -> u32 {
        let goes = |index: u32| {
            media.ice.iter().any(|ice| ice.line == index)
                || media.naming.contains(&index)
                || media.bundle_only_line == Some(index)
        };
        media
            .lines
            .clone()
            .rev()
            .find(|index| !goes(*index) && self.line(*index).is_some_and(|line| line.kind != 0))
            .unwrap_or(media.lines.start)
    }

    fn anchor_candidates(
        &mut self,
        (media, tag): (&Media, Option<&Media>),
        address: IpAddr,
        (rtp, rtcp): (u16, Option<u16>),
        candidates: Candidates,
    ) {
        if candidates == Candidates::Keep {
            return;
        }
        let of = |media: &Media| {
            let old = media.ice.iter().any(|ice| ice.candidate)
                && !media.ice.iter().any(|ice| ice.standard);
            media.has_ice && !old && media.port != 0
        };
        if candidates == Candidates::Strip || !(of(media) || tag.is_some_and(of)) {
            return self.strip(media);
        }
        for ice in media.ice.iter().filter(|ice| ice.candidate) {
            self.remove_line(ice.line);
        }
        let after = self.last_line(media);
        for (component, port) in [(1, Some(rtp)), (2, rtcp)] {
            let Some(port) = port else { continue };
            // RFC 8445 section 5.1.2.1: a host candidate, the only one.
            let priority: u32 = (126 << 24) + (65_535 << 8) + (256 - component);
            let text =
                format!("a=candidate:1 {component} UDP {priority} {address} {port} typ host");
            self.insert_after(after, text);
        }
    }

    /// Rejected m-lines leave their groups (RFC 5888 section 9.2, RFC 8843 section 7.3.2).
    fn groups(&mut self, change: &Rewrite) {
        let sdp = self.sdp;
        let rejected = |index: Option<usize>| {
            index.and_then(|index| change.lines.get(index)) == Some(&LineChange::Reject)
        };
        for group in &sdp.groups {
            if !group.names.iter().any(|(_, index)| rejected(*index)) {
                continue;
            }
            if group.names.iter().all(|(_, index)| rejected(*index)) {
                self.remove_line(group.line);
                continue;
            }
            for (range, index) in &group.names {
                if rejected(*index) {
                    // With the space before it.
                    self.put(range.start - 1..range.end, "");
                }
            }
        }
    }

    fn finish(mut self) -> Bytes {
        let text = &self.sdp.text;
        if self.edits.is_empty() {
            return text.clone();
        }
        // Stable: what is put in at one place keeps its order.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let more: usize = self.edits.iter().map(|(_, text)| text.len()).sum();
        let mut out = Vec::with_capacity(text.len() + more);
        let mut done = 0;
        for (range, new) in &self.edits {
            out.extend_from_slice(bytes_at(text, &(done..range.start)));
            out.extend_from_slice(new);
            done = range.end;
        }
        out.extend_from_slice(bytes_at(text, &(done..text.len() as u32)));
        Bytes::from(out)
    }
}
