//! Edits of the example file's next hops and DNS, and what must be found then.

use super::test_cases::Case;

/// The example's first next hop.
const HOP: &str = "\"sip:director.contoso.example:5061;transport=tls\"";
/// A table of `[inside]`, in place of the header that follows.
const HERE: &str = "# Who may federate";

macro_rules! route {
    ($text:literal) => {
        concat!("[[inside.route]]\n", $text, "\n\n# Who may federate")
    };
}

pub(super) const ROUTING_ERRORS: &[Case] = &[
    (HOP, "\"srv:pool.contoso.example\"", ("\"srv:pool", 0), "is not known"),
    (HOP, "\"srv:_sips._tcp\"", ("\"srv:_sips", 0), "begins with a service and a protocol"),
    (HOP, "\"srv:_sips._udp.a.example\"", ("\"srv:_sips", 0), "_sip._tcp and _sip._udp go too"),
    (HOP, "\"srv:_sips._tcp.localhost\"", ("\"srv:_sips", 0), ""),
    (
        HERE,
        route!("domains = [\"x.example\"]\nnext_hops = [\"sip:10.0.0.9\"]"),
        ("\"x.example\"", 0),
        "x.example is none of our domains",
    ),
    (
        HERE,
        route!("domains = [\"contoso.example\"]"),
        ("[[inside.route]]", 1),
        "add next_hops = [\"srv:_sips._tcp.pool.b.example\"]",
    ),
    (
        HERE,
        route!("domains = []\nnext_hops = [\"sip:10.0.0.9\"]"),
        ("domains = []", 0),
        "domains of this route is empty",
    ),
    (
        HERE,
        route!(
            "domains = [\"contoso.example\", \"CONTOSO.example\"]\nnext_hops = [\"sip:10.0.0.9\"]"
        ),
        ("\"CONTOSO.example\"", 0),
        "contoso.example has a route already in line",
    ),
    (
        HERE,
        route!("domains = [\"contoso.example\"]\nnext_hops = [\"sip:10.0.0.10:5061\"]"),
        ("\"sip:10.0.0.10:5061\"", 0),
        "this next hop is this appliance itself",
    ),
    (
        "timeout = \"2s\"",
        "trust_anchor = \"edge.pem\"",
        ("\"edge.pem\"", 1),
        "name a file of DNSKEY records",
    ),
    (
        "timeout = \"2s\"",
        "trust_anchor = \"missing\"",
        ("\"missing\"", 0),
        "this is no trust anchor",
    ),
    ("probe = \"30s\"", "probe = \"2h\"", ("\"2h\"", 0), "inside.probe is out of range"),
];
