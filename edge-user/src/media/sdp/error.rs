//! What is wrong with a text, and where.

/// Why a text is no SDP that the appliance lets through, or a change that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", place(*.line))]
pub struct SdpError {
    /// The line, from 1; 0: the whole text.
    pub line: u32,
    /// What is wrong.
    pub fault: SdpFault,
}

fn place(line: u32) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

impl SdpError {
    pub(super) fn at(line: u32, fault: SdpFault) -> Self {
        Self { line: line.saturating_add(1), fault }
    }

    pub(super) fn whole(fault: SdpFault) -> Self {
        Self { line: 0, fault }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpFault {
    /// More bytes than the bound.
    #[error("too many bytes")]
    TooLong,
    /// More lines than the bound.
    #[error("too many lines")]
    TooManyLines,
    /// More m-lines than the bound.
    #[error("too many m-lines")]
    TooManyMedia,
    /// More attributes of one m-line than the bound.
    #[error("too many attributes")]
    TooManyAttributes,
    /// NUL, CR inside a line, or another control character.
    #[error("a control character")]
    Control,
    /// A line that is not `letter=value`.
    #[error("not a line of SDP: it begins with a small letter and =")]
    NoLine,
    /// An empty line with others after it.
    #[error("an empty line with more after it")]
    EmptyLine,
    /// A letter that RFC 8866 does not know.
    #[error("a line of an unknown type")]
    UnknownType,
    /// The first line is not `v=0`, or there is another one.
    #[error("v=0 stands first, and once")]
    Version,
    /// No `o=`, two of them, or one below an m-line.
    #[error("o= stands once, before the m-lines")]
    OriginPlace,
    /// `o=` is not six words.
    #[error("o= has a name, two numbers and IN IP4 or IN IP6 with an address")]
    Origin,
    /// A line of the session below an m-line.
    #[error("a line of the session below an m-line")]
    Place,
    /// Two lines of which one may stand (`c=`, `s=`, `a=rtcp`, `a=mid`…).
    #[error("a second line where one may stand")]
    Twice,
    /// `c=` is not `IN IP4 address` or `IN IP6 address`.
    #[error("not IN IP4 or IN IP6 with an address of that family, or a host name")]
    Connection,
    /// Multicast: a range or a time to live, or an address of that kind.
    #[error("multicast: this is for calls between two parties")]
    Multicast,
    /// An IPv4 address in IPv6 form.
    #[error("an IPv4 address written as IPv6")]
    Mapped,
    /// An m-line that needs an address and has none.
    #[error("an m-line without c=")]
    NoConnection,
    /// `m=` is not `kind port protocol format…`.
    #[error("m= has a kind, a port, a protocol and formats")]
    Media,
    /// A port that is none.
    #[error("not a port: a number up to 65535, without leading zeros")]
    Port,
    /// Ports, RTCP included, that reach beyond 65535.
    #[error("no room for RTCP: the ports end at 65535")]
    PortRange,
    /// `a=rtcp` is not a port, perhaps with an address.
    #[error("a=rtcp has a port, perhaps with IN IP4 or IN IP6 and an address")]
    Rtcp,
    /// Two directions.
    #[error("two directions for one m-line")]
    Directions,
    /// `b=` without a number.
    #[error("b= has a word and a number")]
    Bandwidth,
    /// `a=mid` or `a=group` with a bad name, two m-lines of one name, or an m-line in a bundle twice.
    #[error("a=mid and a=group have a word of their own for each m-line, bundles one word once")]
    Group,
    /// A change with another number of m-lines than the text.
    #[error("a change for another number of m-lines")]
    LineCount,
    /// An m-line with several ports cannot be anchored.
    #[error("an m-line with several ports cannot be anchored")]
    SeveralPorts,
    /// Anchored where nothing can be sent to.
    #[error("anchored to an address or a port that nothing can be sent to")]
    Anchor,
}
