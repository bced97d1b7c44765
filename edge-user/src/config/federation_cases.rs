//! Edits of the example file that make two entries of `[federation]`, or users' policies,
//! contradict each other, and what must be found then.

use super::test_cases::Case;

/// Put in place of the firewall's header: more of `[federation]` before it.
const HERE: &str = "# The firewall.";

macro_rules! more {
    ($text:literal) => {
        concat!($text, "\n# The firewall.")
    };
}

pub(super) const FEDERATION_ERRORS: &[Case] = &[
    // Names and hosts.
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\n[[federation.public_im_provider]]\nname = \"A\"\nproxy_fqdn = \"i.example\""
        ),
        ("\"A\"", 0),
        "A is already a partner's name in line",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"fabrikam.example\"\nproxy_fqdn = \"h.example\""
        ),
        ("\"fabrikam.example\"\nproxy_fqdn = \"h", 0),
        "give each partner a name of its own",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\n[[federation.public_im_provider]]\nname = \"b\"\nproxy_fqdn = \"H.example.\""
        ),
        ("\"H.example.\"", 0),
        "h.example is already a provider's host in line",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"sip.northwind.example\""
        ),
        ("\"sip.northwind.example\"\n# The", 0),
        "the allowed server of northwind.example; mend: take proxy_fqdn out of the allowed domain",
    ),
    (
        HERE,
        more!("[federation.default_route]\nproxy_fqdn = \"sip.northwind.example\""),
        ("\"sip.northwind.example\"\n# The", 0),
        "the default route's host, and in line",
    ),
    (
        HERE,
        more!("[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"x.bad.example\""),
        ("\"x.bad.example\"", 0),
        "x.bad.example is a provider's host, and blocked by bad.example in line",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"edge.contoso.example\""
        ),
        ("\"edge.contoso.example\"\n# The", 0),
        "this appliance itself",
    ),
    (
        HERE,
        more!("[[federation.hosting_provider]]\nname = \"a b\"\nproxy_fqdn = \"h.example\""),
        ("\"a b\"", 0),
        "is no name for a partner",
    ),
    (
        HERE,
        more!("[[federation.hosting_provider]]\nproxy_fqdn = \"h.example\""),
        ("[[federation.hosting_provider]]\nproxy", 0),
        "federation.hosting_provider.name is missing",
    ),
    (
        HERE,
        more!("[[federation.public_im_provider]]\nname = \"a\""),
        ("[[federation.public_im_provider]]\nname = \"a", 0),
        "federation.public_im_provider.proxy_fqdn is missing",
    ),
    (
        HERE,
        more!(
            "[[federation.public_im_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\nshared_address_space = true"
        ),
        ("shared_address_space", 1),
        "unknown key \"shared_address_space\"",
    ),
    // A domain belongs to one partner.
    (
        HERE,
        more!(
            "[[federation.public_im_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\ndomains = [\"d.example\"]\n[[federation.public_im_provider]]\nname = \"b\"\nproxy_fqdn = \"i.example\"\ndomains = [\"d.example\"]"
        ),
        ("\"d.example\"", 1),
        "d.example is the provider b's, and in line",
    ),
    (
        HERE,
        more!(
            "[[federation.public_im_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\ndomains = [\"d.example\", \"D.example\"]"
        ),
        ("\"D.example\"", 0),
        "stands here twice",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\ndomains = [\"northwind.example\"]"
        ),
        ("\"northwind.example\"]", 0),
        "an allowed server's; mend: take one out",
    ),
    (
        HERE,
        more!(
            "[[federation.public_im_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\ndomains = [\"im.bad.example\"]"
        ),
        ("\"im.bad.example\"", 0),
        "im.bad.example is the provider a's, and blocked by bad.example in line",
    ),
    (
        HERE,
        more!(
            "[[federation.public_im_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\ndomains = [\"contoso.example\"]"
        ),
        ("\"contoso.example\"]\n# The", 0),
        "one of our own domains; mend: take it out; shared_address_space",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\nshared_address_space = true\n[[federation.hosting_provider]]\nname = \"b\"\nproxy_fqdn = \"i.example\"\nshared_address_space = true"
        ),
        ("shared_address_space", 2),
        "the provider a has our address space already",
    ),
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\n[federation.default_route]\nproxy_fqdn = \"c.example\""
        ),
        ("\"c.example\"", 0),
        "there is a default route, and in line",
    ),
    (
        HERE,
        more!("[federation.default_route]\nport = 5061"),
        ("[federation.default_route]\nport", 0),
        "federation.default_route.proxy_fqdn is missing",
    ),
    // What is asked of a partner.
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nverification = \"always\"",
        ("\"always\"", 0),
        "is no verification level; mend: write one of always-verifiable,",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nusage = \"tls\"",
        ("\"tls\"", 0),
        "is no key usage; mend: write one of any, standard, server, client, sip-domain",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nsrv_order = \"random\"",
        ("\"random\"", 0),
        "is no order of SRV targets",
    ),
    (
        "proxy_fqdn = \"sip.northwind.example\"",
        "proxy_fqdn = \"sip.northwind.example\"\nsrv_order = \"weighted\"",
        ("srv_order = \"weighted\"\n# port", 0),
        "srv_order has no meaning with proxy_fqdn",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\npins = [\"sha256:AAAA\"]",
        ("\"sha256:AAAA\"", 0),
        "is no pin; mend: write \"sha256:\" and the base64",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\npins = []",
        ("pins = []", 0),
        "no pins; mend: name 1 to 16",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\npins = [\"sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\", \"sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]",
        ("\"sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]", 0),
        "stands here twice",
    ),
    (
        "discovery = false",
        "archiving_disclaimer = \"From: x\"\ndiscovery = false",
        ("\"From: x\"", 0),
        "the header means something else already",
    ),
    (
        "discovery = false",
        "archiving_disclaimer = \"archiving\"\ndiscovery = false",
        ("\"archiving\"", 0),
        "there is no colon in it",
    ),
    (
        "discovery = false",
        "archiving_disclaimer = \"a: b\\r\\nFrom: c\"\ndiscovery = false",
        ("\"a: b", 0),
        "or has odd ones",
    ),
    (
        "discovery = false",
        "discovery = false\ndiscovered = { verify = true }",
        ("verify = true", 0),
        "unknown key \"verify\" in [federation.discovered]",
    ),
    (
        HERE,
        more!("[federation.throttle]\nmessages_per_second = 5\nsuspicious_per_second = 6"),
        ("suspicious_per_second", 1),
        "would be let send more than others",
    ),
    (
        HERE,
        more!("[federation.throttle]\nblock_first = \"2d\""),
        ("block_first", 1),
        "longer than the longest",
    ),
    (HERE, more!("[federation.throttle]\ndistinct_users = 0"), ("0\n# The", 0), "is out of range"),
    // Users.
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"sales\"]"),
        ("\"sales\"]\n# The", 0),
        "there is no group \"sales\"; mend: add a [[group]]",
    ),
    (
        HERE,
        more!("[[user_policy]]\nfederation = false"),
        ("[[user_policy]]\nfederation = false", 0),
        "user_policy.users is missing",
    ),
    (HERE, more!("[[user_policy]]\nusers = []"), ("users = []", 0), "the policy is for nobody"),
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"a@fabrikam.example\"]"),
        ("\"a@fabrikam.example\"", 0),
        "fabrikam.example is none of our own domains",
    ),
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"*@it.contoso.example\"]"),
        ("\"*@it.contoso.example\"", 0),
        "it.contoso.example is none of our own domains",
    ),
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"a b@contoso.example\"]"),
        ("\"a b@contoso.example\"", 0),
        "is no user",
    ),
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"*\"]\nfederation = \"yes\""),
        ("\"yes\"", 0),
        "user_policy.federation is a text",
    ),
    (
        HERE,
        more!(
            "[[group]]\nname = \"g\"\nusers = [\"a@contoso.example\"]\n[[group]]\nname = \"g\"\nusers = [\"b@contoso.example\"]"
        ),
        ("\"g\"", 1),
        "the group \"g\" stands already in line",
    ),
    (
        HERE,
        more!("[[group]]\nname = \"g\"\nusers = []"),
        ("users = []", 0),
        "the group has no members",
    ),
    (
        HERE,
        more!("[[group]]\nname = \"g\"\nusers = [\"a@contoso.example\", \"A@Contoso.example\"]"),
        ("\"A@Contoso.example\"", 0),
        "stands here twice",
    ),
    (
        HERE,
        more!("[[group]]\nname = \"g\"\nusers = [\"*@contoso.example\"]"),
        ("\"*@contoso.example\"]\n# The", 0),
        "is no user",
    ),
];

pub(super) const FEDERATION_WARNINGS: &[Case] = &[
    (
        HERE,
        more!(
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\ndomains = [\"d.example\"]"
        ),
        ("\"d.example\"", 0),
        "d.example is not allowed, so the provider does not carry it",
    ),
    (
        "discovery = false",
        "discovery = false\ndiscovered = { usage = \"any\" }",
        ("discovered = {", 0),
        "nothing is discovered",
    ),
    (
        HERE,
        more!(
            "[[user_policy]]\nusers = [\"*\"]\n[[user_policy]]\nusers = [\"*\"]\nfederation = false"
        ),
        ("\"*\"]\nfederation", 0),
        "this stands already in line",
    ),
    (
        HERE,
        more!("[[group]]\nname = \"g\"\nusers = [\"a@contoso.example\"]"),
        ("\"g\"", 0),
        "no user_policy is for the group \"g\"",
    ),
];
