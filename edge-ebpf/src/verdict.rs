//! Verdicts and their reasons. One list for the whole product: the kernel's counters, the
//! daemon's log, the CLI and the documentation all use these names.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on to the network stack.
    Pass,
    /// The packet is dropped in the driver.
    Drop,
    /// The packet is answered in the driver, and does not go on.
    Answer,
    /// The packet belongs to a media flow: it leaves by the flow's device and never reaches the
    /// network stack.
    Forward,
}

impl Verdict {
    /// The name used in counters, events, the CLI and the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Answer => "answer",
            Self::Forward => "forward",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $verdict:ident;)+) => {
        /// Why a packet was passed or dropped. The number is the index into the kernel's
        /// `REASON_COUNTERS` map and never changes its meaning within a schema.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The name used in counters, events, logs, the CLI and the documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }

            /// The verdict this reason stands for (in monitor mode a drop is counted, not done).
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Reason::$name => Verdict::$verdict,)+ }
            }

            /// One line for people: what happened.
            pub const fn explain(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// The reason with this number, as it came back from a function of the kernel program:
            /// without a comparison for each reason, every one of which the verifier would follow.
            ///
            /// # Safety
            /// There is a reason with this number.
            #[inline(always)]
            pub const unsafe fn from_own_number(number: u8) -> Reason {
                // SAFETY: as the caller promises; a reason is its number.
                unsafe { core::mem::transmute::<u8, Reason>(number) }
            }

            /// The reason with this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Reason> {
                match number { $($number => Some(Reason::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    // Passed.
    /// An ARP packet.
    Arp = 0, "arp", Pass;
    /// Link control the configuration allows (LLDP or LACP).
    LinkControl = 1, "link-control", Pass;
    /// IPv6 neighbour discovery with hop limit 255 (RFC 4861, RFC 4890).
    NeighbourDiscovery = 2, "neighbour-discovery", Pass;
    /// An ICMP error that quotes a packet of one of our own sockets (path MTU and the like).
    IcmpError = 3, "icmp-error", Pass;
    /// An ICMP echo reply to a request of ours.
    IcmpReply = 4, "icmp-reply", Pass;
    /// A management port, from a management prefix.
    Management = 5, "management", Pass;
    /// A rule of the zone let it in.
    Rule = 6, "rule", Pass;
    /// A TCP segment for a connection of ours (a socket that is not listening).
    ReplyTcp = 7, "reply-tcp", Pass;
    /// A UDP datagram for a connected socket of ours.
    ReplyUdp = 8, "reply-udp", Pass;
    /// A UDP datagram that answers one we sent (remembered at egress).
    ReplyRemembered = 9, "reply-remembered", Pass;
    /// A DHCP answer, where the configuration allows the DHCP client.
    Dhcp = 10, "dhcp", Pass;
    /// Multicast listener discovery from the local link (RFC 4890).
    MulticastListener = 11, "multicast-listener", Pass;
    /// A later fragment of a packet whose first fragment passed.
    FragmentTracked = 12, "fragment-tracked", Pass;
    /// A SYN in a flood, answered with a SYN cookie (RFC 4987 section 3.6).
    SynCookie = 13, "syn-cookie", Answer;
    /// A packet of a media flow, forwarded to where the call says.
    MediaRelayed = 14, "media-relayed", Forward;
    /// A packet of a media flow that the daemon forwards, because the driver cannot.
    MediaToDaemon = 15, "media-to-daemon", Pass;
    // Dropped: what cannot be parsed.
    /// The packet ends before a header it promises.
    Truncated = 16, "truncated", Drop;
    /// An EtherType that is not in the table.
    EtherType = 17, "ether-type", Drop;
    /// More than two VLAN tags.
    VlanDepth = 18, "vlan-depth", Drop;
    /// A VLAN that belongs to no zone.
    VlanUnknown = 19, "vlan-unknown", Drop;
    /// An interface that belongs to no zone.
    InterfaceUnknown = 20, "interface-unknown", Drop;
    /// An IP header with a wrong version or header length.
    IpHeader = 21, "ip-header", Drop;
    /// An IP, UDP or TCP length that does not fit the packet.
    BadLength = 22, "bad-length", Drop;
    /// An IPv6 extension header that is not in the table.
    ExtensionHeader = 23, "extension-header", Drop;
    /// More IPv6 extension headers than are looked at.
    ExtensionDepth = 24, "extension-depth", Drop;
    /// A fragment whose first one did not pass here, or a first one too short to be judged.
    Fragment = 25, "fragment", Drop;
    /// A source address no packet can come from (multicast, broadcast, loopback, unspecified, one of our own).
    BadSource = 26, "bad-source", Drop;
    /// TCP flags that no stack sends (none, SYN with FIN or RST, FIN alone without ACK).
    TcpFlags = 27, "tcp-flags", Drop;
    /// A fragment that reaches into one before it (RFC 5722, RFC 3128).
    FragmentOverlap = 28, "fragment-overlap", Drop;
    /// An IPv4 option that steers the packet's way (loose or strict source route, RFC 7126).
    SourceRoute = 29, "source-route", Drop;
    // Dropped: policy.
    /// The source address is blocked by an administrator.
    BlockedAddress = 32, "blocked-address", Drop;
    /// The source address belongs to a blocked domain, and the port is a federation port.
    BlockedDomain = 33, "blocked-domain", Drop;
    /// No rule of the zone names this port or protocol.
    NoRule = 34, "no-rule", Drop;
    /// A rule names the port, but not for this source.
    SourceNotAllowed = 35, "source-not-allowed", Drop;
    /// A rule names the port, but for another of our addresses.
    DestinationNotAllowed = 36, "destination-not-allowed", Drop;
    /// A rule says drop.
    RuleDrop = 37, "rule-drop", Drop;
    /// An ICMP or ICMPv6 type that is not in the table.
    IcmpType = 38, "icmp-type", Drop;
    /// An ICMP error or echo reply that answers nothing of ours.
    IcmpUnsolicited = 39, "icmp-unsolicited", Drop;
    /// Neighbour discovery that crossed a router (hop limit below 255).
    NeighbourHopLimit = 40, "neighbour-hop-limit", Drop;
    /// There is no rule set yet: only what keeps the link and the management alive passes.
    NoRuleSet = 41, "no-rule-set", Drop;
    /// A rule names the port for partners only, and the source is no address of a partner.
    NotPartner = 42, "not-partner", Drop;
    // Dropped: content.
    /// The payload on a port for SIP in the clear does not begin like SIP.
    NotSip = 43, "not-sip", Drop;
    /// The payload carries the signature of a known scanner.
    SipScanner = 44, "sip-scanner", Drop;
    /// The payload on a media port does not begin like STUN, DTLS, TURN or RTP (RFC 7983).
    NotMedia = 45, "not-media", Drop;
    // Dropped: too much.
    /// A rule's rate for one source is used up.
    RateSource = 48, "rate-source", Drop;
    /// A rule's rate for all sources is used up.
    RateTotal = 49, "rate-total", Drop;
    /// The zone's packets to the network stack are used up.
    ZoneCeiling = 50, "zone-ceiling", Drop;
    /// A SYN in a flood that cannot be answered with a cookie.
    Flood = 51, "flood", Drop;
    /// In a flood: a segment for no connection that brings no good SYN cookie.
    SynCookieBad = 52, "syn-cookie-bad", Drop;
    // Dropped: media flows.
    /// A packet for a media flow from another source than the flow's.
    MediaSource = 53, "media-source", Drop;
    /// A packet for a media flow that has ended.
    MediaExpired = 54, "media-expired", Drop;
    /// A packet for a media flow to whose end no way is known.
    MediaNoRoute = 55, "media-no-route", Drop;
    /// A media flow carries more than its call agreed to.
    MediaRate = 56, "media-rate", Drop;
    /// The first packet of a source that a media flow may learn: the next one confirms it.
    MediaLearning = 57, "media-learning", Drop;
    /// A packet for a media flow in a shape that is not forwarded: a fragment, IPv4 options, IPv6 extension headers, another address.
    MediaShape = 58, "media-shape", Drop;
    /// A packet for a media flow whose hops are used up.
    MediaHops = 59, "media-hops", Drop;
    /// A packet for a media flow that is too long for the device it would leave by; its sender is told.
    MediaTooLong = 60, "media-too-long", Drop;
}

/// Slots in the counter map; reasons stay below this number.
pub const REASON_SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_slots_are_consistent() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
            assert!((*reason as usize) < REASON_SLOTS);
            assert_eq!(Reason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
        assert_eq!(Reason::from_number(63), None);
    }
}
