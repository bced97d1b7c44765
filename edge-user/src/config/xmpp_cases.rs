//! Edits of the example file that are about XMPP, and what must be found then.

use super::test_cases::Case;

/// Put in place of the firewall's header.
const HERE: &str = "# The firewall.";

macro_rules! partner {
    ($text:literal) => {
        concat!(
            "[service.xmpp]\nlisten = \"203.0.113.10\"\n[[user_policy]]\nusers = [\"*\"]\nxmpp = true\n",
            "[[xmpp.partner]]\n",
            $text,
            "\n# The firewall."
        )
    };
}

macro_rules! service {
    ($text:literal) => {
        concat!("[service.xmpp]\nlisten = \"203.0.113.10\"\n", $text, "\n# The firewall.")
    };
}

pub(super) const XMPP_ERRORS: &[Case] = &[
    // Keys and values.
    (
        HERE,
        partner!("domains = \"j.example\""),
        ("domains = \"j", 0),
        "unknown key \"domains\" in [xmpp.partner]; mend: did you mean domain?",
    ),
    (
        HERE,
        service!("[xmpp]\nchats = \"session\""),
        ("\"session\"", 0),
        "is no way for chat messages to go; mend: write \"messages\", or \"sessions\"",
    ),
    (HERE, partner!(""), ("[[xmpp.partner]]\n\n", 0), "xmpp.partner.domain is missing"),
    (
        HERE,
        partner!("domain = \"j.example\"\ntype = \"public\""),
        ("\"public\"", 0),
        "is no type of XMPP partner; mend: write \"federated\", \"public-verified\"",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = true"),
        ("true\n# The", 0),
        "xmpp.partner.tls is true or false",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\nsasl = \"maybe\""),
        ("\"maybe\"", 0),
        "mend: write \"required\", \"optional\" or \"not-supported\"",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\nport = 5270"),
        ("5270", 1),
        "a port without proxy_fqdn has no host",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\nproxy_fqdn = \"edge.contoso.example\""),
        ("\"edge.contoso.example\"\n# The", 0),
        "the name of this appliance itself",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\n[xmpp]\nstanza_bytes = 9999"),
        ("9999\n# The", 0),
        "xmpp.stanza_bytes is out of range; mend: write an integer from 10000",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\n[xmpp]\nconnections = 5"),
        ("[xmpp]\nconn", 0),
        "one partner may have more streams than all together",
    ),
    (
        HERE,
        "[xmpp]\nenable = true\n# The firewall.",
        ("enable = true\n# The", 0),
        "did you mean enabled?",
    ),
    // Lync's matrix: what proves nobody.
    (
        HERE,
        partner!("domain = \"j.example\"\nsasl = \"not-supported\"\ndialback = false"),
        ("[[xmpp.partner]]\ndomain", 0),
        "nothing can prove j.example: SASL is not supported, and dialback is off",
    ),
    (
        HERE,
        partner!(
            "domain = \"j.example\"\ntls = \"optional\"\nsasl = \"not-supported\"\ndialback = false"
        ),
        ("[[xmpp.partner]]\ndomain", 0),
        "nothing can prove j.example",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"not-supported\"\ndialback = false"),
        ("[[xmpp.partner]]\ndomain", 0),
        "SASL EXTERNAL needs TLS, and dialback is off; mend: write dialback = true",
    ),
    (
        HERE,
        partner!(
            "domain = \"j.example\"\ntls = \"not-supported\"\nsasl = \"optional\"\ndialback = false"
        ),
        ("[[xmpp.partner]]\ndomain", 0),
        "nothing can prove j.example",
    ),
    (
        HERE,
        partner!(
            "domain = \"j.example\"\ntls = \"not-supported\"\nsasl = \"not-supported\"\ndialback = false"
        ),
        ("[[xmpp.partner]]\ndomain", 0),
        "nothing can prove j.example",
    ),
    // One domain, one meaning.
    (
        HERE,
        partner!("domain = \"fabrikam.example\""),
        ("\"fabrikam.example\"\n# The", 0),
        "fabrikam.example is an XMPP partner, and an allowed SIP domain too",
    ),
    (
        HERE,
        partner!(
            "domain = \"j.example\"\nadditional_domains = [\"d.example\"]\n[[federation.public_im_provider]]\nname = \"p\"\nproxy_fqdn = \"h.example\"\ndomains = [\"d.example\"]"
        ),
        ("\"d.example\"", 0),
        "a SIP domain of the provider p",
    ),
    (
        HERE,
        partner!("domain = \"contoso.example\""),
        ("\"contoso.example\"\n# The", 0),
        "contoso.example is one of our own domains, and no partner",
    ),
    (
        HERE,
        partner!(
            "domain = \"chat.contoso.example\"\n[[service.xmpp.server]]\ndomains = [\"chat.contoso.example\"]\nnext_hop = \"x.contoso.example\""
        ),
        ("\"chat.contoso.example\"\n[[service", 0),
        "one of our own domains",
    ),
    (
        HERE,
        partner!("domain = \"x.bad.example\""),
        ("\"x.bad.example\"", 0),
        "x.bad.example is an XMPP partner, and blocked by bad.example",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\n[[xmpp.partner]]\ndomain = \"J.example.\""),
        ("\"J.example.\"", 0),
        "j.example is an XMPP partner's already in line",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\nadditional_domains = [\"j.example\"]"),
        ("\"j.example\"]", 0),
        "j.example is an XMPP partner's already in line",
    ),
    // The service.
    (
        HERE,
        service!("key = \"edge.key\""),
        ("key = \"edge.key\"\n# The", 0),
        "service.xmpp.key is given without service.xmpp.certificate",
    ),
    (HERE, service!("trust = \"missing.pem\""), ("\"missing.pem\"", 0), "cannot be read"),
    (
        HERE,
        service!("domains = [\"other.example\"]"),
        ("\"other.example\"", 0),
        "other.example is none of edge.domains, so it has no SIP users",
    ),
    (
        HERE,
        service!(
            "domains = [\"contoso.example\"]\n[[service.xmpp.server]]\ndomains = [\"contoso.example\"]\nnext_hop = \"x.contoso.example\""
        ),
        ("\"contoso.example\"]\n[[service", 0),
        "is the gateway's here, and a server's below",
    ),
    (
        HERE,
        service!("[[service.xmpp.server]]\ndomains = []\nnext_hop = \"x.contoso.example\""),
        ("domains = []", 0),
        "this server is for no domain",
    ),
    (
        HERE,
        service!("[[service.xmpp.server]]\ndomains = [\"c.example\"]"),
        ("[[service.xmpp.server]]\ndomains", 0),
        "service.xmpp.server.next_hop is missing",
    ),
    (
        HERE,
        service!("[[service.xmpp.server]]\ndomains = [\"c.example\"]\nnext_hop = \"x.example:0\""),
        ("\"x.example:0\"", 0),
        "is no next hop; mend: write \"xmpp.contoso.example:5269\"",
    ),
    (
        HERE,
        service!(
            "[[service.xmpp.server]]\ndomains = [\"c.example\"]\nnext_hop = \"edge.contoso.example\""
        ),
        ("\"edge.contoso.example\"\n# The", 0),
        "this next hop is this appliance itself",
    ),
    (
        HERE,
        service!(
            "inside = []\n[[service.xmpp.server]]\ndomains = [\"c.example\"]\nnext_hop = \"x.example\""
        ),
        ("[service.xmpp]\nlisten", 0),
        "XMPP servers inside have no listener to connect to",
    ),
    (
        HERE,
        service!(
            "[[service.xmpp.server]]\ndomains = [\"c.example\"]\nnext_hop = \"x.example\"\n[[service.xmpp.server]]\ndomains = [\"c.example\"]\nnext_hop = \"y.example\""
        ),
        ("\"c.example\"]\nnext_hop = \"y", 0),
        "c.example has a server already in line",
    ),
    (
        HERE,
        service!("direct_tls = \"203.0.113.10:5061\""),
        ("\"203.0.113.10:5061\"\n# The", 0),
        "203.0.113.10:5061 is listened on already in line",
    ),
];

pub(super) const XMPP_WARNINGS: &[Case] = &[
    // Lync's matrix: what proves little.
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"optional\""),
        ("tls = \"optional\"", 0),
        "can take TLS out of streams with j.example",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"optional\"\nsasl = \"optional\""),
        ("tls = \"optional\"", 0),
        "can take TLS out of streams with j.example",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"optional\"\nsasl = \"not-supported\""),
        ("tls = \"optional\"", 0),
        "can take TLS out of streams with j.example",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"optional\"\ndialback = false"),
        ("tls = \"optional\"", 0),
        "TLS is optional for j.example, and without it no stream can be proved",
    ),
    (
        HERE,
        partner!(
            "domain = \"j.example\"\ntls = \"optional\"\nsasl = \"optional\"\ndialback = false"
        ),
        ("tls = \"optional\"", 0),
        "TLS is optional for j.example, and without it no stream can be proved",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"not-supported\""),
        ("tls = \"not", 0),
        "SASL EXTERNAL needs TLS, which j.example is said not to support",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"not-supported\"\nsasl = \"optional\""),
        ("tls = \"not", 0),
        "SASL EXTERNAL needs TLS",
    ),
    (
        HERE,
        partner!("domain = \"j.example\"\ntls = \"not-supported\"\nsasl = \"not-supported\""),
        ("tls = \"not", 0),
        "streams with j.example are not encrypted",
    ),
    // What has no effect.
    (HERE, "[xmpp]\n# The firewall.", ("[xmpp]\n# The", 0), "there is no [service.xmpp]"),
    (
        HERE,
        service!("[[xmpp.partner]]\ndomain = \"j.example\""),
        ("xmpp.partner]]\ndomain = \"j", 0),
        "no user may use XMPP",
    ),
    // What partners ask the certificate for.
    (
        HERE,
        service!(""),
        ("\"edge.pem\"", 0),
        "ask this certificate for contoso.example, which it does not hold",
    ),
];

/// Terms of Lync's matrix that prove enough: nothing is said of them.
pub(super) const XMPP_SILENT: &[&str] = &[
    partner!("domain = \"j.example\""),
    partner!("domain = \"j.example\"\ndialback = false"),
    partner!("domain = \"j.example\"\nsasl = \"optional\""),
    partner!("domain = \"j.example\"\nsasl = \"optional\"\ndialback = false"),
    partner!("domain = \"j.example\"\nsasl = \"not-supported\""),
];
