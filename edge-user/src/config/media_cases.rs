//! Edits of the example file that are about media and modalities, and what must be found then.

use super::test_cases::Case;

/// Put in place of the firewall's header: more of `[federation]` before it.
const HERE: &str = "# The firewall.";

/// The example's second interface, which is the internal zone's.
const AV: &str = "[service.av]\nlisten = \"203.0.113.12\"\n";

macro_rules! av {
    ($text:literal) => {
        concat!("[service.av]\nlisten = \"203.0.113.12\"\n", $text, "\n[inside]\n")
    };
}

macro_rules! more {
    ($text:literal) => {
        concat!($text, "\n# The firewall.")
    };
}

pub(super) const MEDIA_ERRORS: &[Case] = &[
    // Modes.
    (
        "[inside]\n",
        av!("[media]\nmode = \"proxy\""),
        ("\"proxy\"", 0),
        "is no way for media to pass; mend: write \"relay\", \"pinhole\" or \"off\"",
    ),
    (
        "[inside]\n",
        "[media]\nmode = \"relay\"\n[inside]\n",
        ("\"relay\"\n[inside]", 0),
        "a relay has no addresses without [service.av]",
    ),
    (
        "[inside]\n",
        av!("inside = []\n[media]\nmode = \"relay\""),
        ("\"relay\"\n[inside]", 0),
        "no address towards the inside; mend: add service.av.inside",
    ),
    (
        "zone = \"internal\"\n",
        "zone = \"external\"\n[media]\nmode = \"pinhole\"\n",
        ("\"pinhole\"", 0),
        "no interface belongs to the internal one",
    ),
    ("[inside]\n", av!("[media]\nmode = 1"), ("1\n[inside]", 0), "media.mode is an integer"),
    (
        "[inside]\n",
        av!("[media]\nmodus = \"relay\""),
        ("modus", 0),
        "unknown key \"modus\" in [media]; mend: did you mean mode?",
    ),
    // Paths.
    (
        "[inside]\n",
        av!("[media]\npath = \"user\""),
        ("\"user\"", 0),
        "sends no media on; mend: write \"auto\", \"kernel\" or \"daemon\"",
    ),
    (
        "[inside]\n",
        av!("[media]\nmode = \"pinhole\"\npath = \"daemon\""),
        ("\"daemon\"\n[inside]", 0),
        "the daemon never sees them; mend: write path = \"kernel\"",
    ),
    (
        "[firewall]\nmonitor = false",
        "[media]\npath = \"daemon\"\n[firewall]\nmonitor = true",
        ("\"daemon\"\n[firewall]", 0),
        "what was judged reaches the daemon with what was not",
    ),
    // Times.
    (
        "[inside]\n",
        av!("[media]\nsilence = \"5s\""),
        ("\"5s\"\n[inside]", 0),
        "media.silence is out of range",
    ),
    (
        "[inside]\n",
        av!("[media]\nlongest_call = \"8d\""),
        ("\"8d\"", 0),
        "media.longest_call is out of range",
    ),
    (
        "[inside]\n",
        av!("[media]\nsilence = \"10min\"\nlongest_call = \"5min\""),
        ("silence = \"10min\"", 0),
        "before it is silent for so long; mend: write at most longest_call",
    ),
    // Addresses that SDP shows.
    (
        "[inside]\n",
        av!("advertise = \"127.0.0.1\""),
        ("\"127.0.0.1\"\n[inside]", 0),
        "a loopback address means nothing to others",
    ),
    (
        "[inside]\n",
        av!("advertise = \"2001:db8::9\""),
        ("\"2001:db8::9\"\n[inside]", 0),
        "nothing listens in its family",
    ),
    (
        "[inside]\n",
        av!("advertise = [\"198.51.100.1\", \"198.51.100.2\"]"),
        ("advertise = [\"198.51.100.1\"", 0),
        "name one address of each family in both",
    ),
    (
        "[inside]\n",
        "[service.av]\nlisten = [\"203.0.113.12\", \"203.0.113.13\"]\nadvertise = \"198.51.100.1\"\n[inside]\n",
        ("advertise = \"198.51.100.1\"", 0),
        "which IPv4 address stands for which",
    ),
    // Modalities.
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nmodalities = [\"im\", \"speech\"]",
        ("\"speech\"", 0),
        "is no modality; mend: write one of im, presence, audio, video,",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nmodalities = [\"im\", \"im\"]",
        ("\"im\"]\n", 0),
        "the modality im stands here twice",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nmodalities = []",
        ("modalities = []", 0),
        "nothing at all is allowed",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nmodalities = true",
        ("true\n\n[[federation", 0),
        "federation.allowed_domain.modalities is true or false",
    ),
    (
        "domain = \"fabrikam.example\"",
        "domain = \"fabrikam.example\"\nbehind_nat = \"yes\"",
        ("\"yes\"", 0),
        "behind_nat is a text",
    ),
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"*\"]\nmodalities = [\"fax\"]"),
        ("\"fax\"", 0),
        "is no modality",
    ),
    (
        HERE,
        more!("[[user_policy]]\nusers = [\"*\"]\nmodalities = []"),
        ("modalities = []", 0),
        "or write federation = false",
    ),
];

pub(super) const MEDIA_WARNINGS: &[Case] = &[
    (
        "[inside]\n",
        av!("legacy_partners = true"),
        ("legacy_partners = true\n[inside]", 0),
        "each call opens its own ports",
    ),
    (
        "[inside]\n",
        av!("[media]\nmode = \"off\"\nsilence = \"1min\""),
        ("silence = \"1min\"", 0),
        "no media passes, so this has no effect",
    ),
    ("[inside]\n", av!(""), ("[service.av]\nlisten", 0), "STUN and TURN are not served yet"),
];

mod read {
    use std::time::Duration;

    use super::{super::tests_support, *};
    use crate::{
        config::{Config, MediaMode, parse},
        media::policy::{Modalities, Modality},
    };

    /// The example with one edit.
    fn edited(find: &str, replace: &str) -> Config {
        let folder = tests_support::good_files();
        let text = tests_support::example();
        assert!(text.contains(find), "{find}");
        let text = text.replacen(find, replace, 1);
        parse(&text, &folder.0.join("edge.toml")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn media_is_relayed_where_the_av_service_has_addresses_on_both_sides() {
        for (text, mode) in [
            ("", MediaMode::Off),
            (AV, MediaMode::Relay),
            ("[service.av]\nlisten = \"203.0.113.12\"\ninside = []\n", MediaMode::Off),
            ("[media]\nmode = \"pinhole\"\n", MediaMode::Pinhole),
        ] {
            let config = edited("[inside]\n", &format!("{text}[inside]\n"));
            assert_eq!(config.media.mode, mode, "{text}");
            assert_eq!(config.media.silence, Duration::from_secs(300));
            assert_eq!(config.media.longest_call, Duration::from_secs(86_400));
        }
        let config = edited("[inside]\n", &format!("{AV}[media]\nmode = \"off\"\n[inside]\n"));
        assert_eq!(config.media.mode, MediaMode::Off);
        let config = edited(
            "[inside]\n",
            &format!("{AV}[media]\nsilence = 60\nlongest_call = \"2h\"\n[inside]\n"),
        );
        let times = (config.media.silence, config.media.longest_call);
        assert_eq!(times, (Duration::from_secs(60), Duration::from_secs(7200)));
    }

    #[test]
    fn sdp_shows_what_is_advertised_in_the_family() {
        let config = edited(
            "[inside]\n",
            "[service.av]\nlisten = [\"203.0.113.12\", \"2001:db8::12\"]\n\
             advertise = \"198.51.100.12\"\n[inside]\n",
        );
        let av = config.services.av.unwrap();
        let shown: Vec<String> =
            av.listen.iter().map(|listen| av.advertised(*listen).to_string()).collect();
        assert_eq!(shown, ["198.51.100.12", "2001:db8::12"]);
    }

    #[test]
    fn every_kind_of_partner_and_each_user_has_modalities() {
        let config = edited(
            "# The firewall.",
            "[[federation.hosting_provider]]\nname = \"a\"\nproxy_fqdn = \"h.example\"\n\
             modalities = [\"im\"]\nbehind_nat = true\n\
             [[federation.public_im_provider]]\nname = \"b\"\nproxy_fqdn = \"i.example\"\n\
             modalities = \"presence\"\n\
             [[user_policy]]\nusers = [\"*\"]\nmodalities = [\"audio\", \"video\"]\n\
             # The firewall.",
        );
        let federation = &config.federation;
        let only = |modality| Modalities::NONE.with(modality);
        assert_eq!(federation.allowed_domains[0].options.modalities, Modalities::ALL);
        let hosting = &federation.hosting_providers[0].options;
        assert_eq!((hosting.modalities, hosting.behind_nat), (only(Modality::Im), true));
        let public = &federation.public_im_providers[0].options;
        assert_eq!((public.modalities, public.behind_nat), (only(Modality::Presence), false));
        let rights = federation.users[0].rights;
        assert_eq!(rights.modalities, only(Modality::Audio).with(Modality::Video));
        let config = edited(
            "discovery = false",
            "discovery = true\ndiscovered = { modalities = [\"im\"], behind_nat = true }\n\
             [federation.default_route]\nproxy_fqdn = \"c.example\"\nmodalities = [\"video\"]\n",
        );
        let federation = &config.federation;
        assert_eq!(federation.discovered.modalities, only(Modality::Im));
        assert!(federation.discovered.behind_nat);
        let route = federation.default_route.as_ref().unwrap();
        assert_eq!(route.options.modalities, only(Modality::Video));
    }
}
