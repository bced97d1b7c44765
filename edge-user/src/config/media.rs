//! `[media]`: how the media of calls passes; and `modalities`, which partners and users have.

use std::time::Duration;

use toml::Spanned;

use super::{
    findings::{Fault, quoted},
    model::{Interface, Zone},
    model_media::{MediaMode, MediaPath, MediaSettings},
    model_services::AvService,
    reader::Section,
    sections::no_duplicates,
};
use crate::media::policy::{Modalities, Modality, UnknownModality};

/// Reads `[media]`. `av` is the service whose addresses a relay uses; `monitor`: the firewall drops
/// nothing.
pub(super) fn media(
    root: &Section<'_>,
    av: Option<&AvService>,
    interfaces: &[Interface],
    monitor: bool,
) -> MediaSettings {
    let section = root.section("media");
    let second = Duration::from_secs;
    let default = MediaSettings::default();
    let stated = section.parsed("mode", mode);
    let relays = av.is_some_and(|av| !av.listen.is_empty() && !av.inside.is_empty());
    let mode = match &stated {
        Some(stated) => *stated.get_ref(),
        // What is wrong with it is told, and no other mode meant.
        None if section.has("mode") => MediaMode::Off,
        None if relays => MediaMode::Relay,
        None => MediaMode::Off,
    };
    let path = section.parsed("path", path);
    let settings = MediaSettings {
        mode,
        path: path.as_ref().map_or(MediaPath::Auto, |path| *path.get_ref()),
        silence: section.duration("silence", second(30)..=second(86_400), default.silence),
        longest_call: section.duration(
            "longest_call",
            second(60)..=second(7 * 86_400),
            default.longest_call,
        ),
    };
    if let Some(stated) = stated {
        can_be_served(&section, &stated, av, interfaces);
    }
    if let Some(path) = path {
        can_go_by(&section, &path, mode, monitor);
    }
    check_times(&section, &settings);
    if mode != MediaMode::Off && av.is_some_and(|av| av.legacy_partners) {
        let span = root.section("service").section("av").key_span("legacy_partners");
        section.sink.warn(
            &span,
            "each call opens its own ports, and this opens all of them to everybody",
            "write legacy_partners = false",
        );
    }
    section.finish();
    settings
}

fn mode(text: &str) -> Result<MediaMode, Fault> {
    MediaMode::ALL.iter().copied().find(|mode| mode.name() == text).ok_or_else(|| {
        Fault::new(
            format!("{} is no way for media to pass", quoted(text)),
            "write \"relay\", \"pinhole\" or \"off\"",
        )
    })
}

fn path(text: &str) -> Result<MediaPath, Fault> {
    MediaPath::ALL.iter().copied().find(|path| path.name() == text).ok_or_else(|| {
        Fault::new(
            format!("{} sends no media on", quoted(text)),
            "write \"auto\", \"kernel\" or \"daemon\"",
        )
    })
}

/// Whether the daemon, where the file names it, can do what it is to do.
fn can_go_by(section: &Section<'_>, path: &Spanned<MediaPath>, mode: MediaMode, monitor: bool) {
    if *path.get_ref() != MediaPath::Daemon {
        return;
    }
    if mode == MediaMode::Pinhole {
        section.sink.error(
            &path.span(),
            "the packets of a pinhole are not for this appliance: the daemon never sees them",
            "write path = \"kernel\", or mode = \"relay\"",
        );
    }
    if monitor {
        section.sink.error(
            &path.span(),
            "with firewall.monitor what was judged reaches the daemon with what was not",
            "write monitor = false under [firewall], or path = \"kernel\"",
        );
    }
}

/// Whether the mode that the file names has what it needs.
fn can_be_served(
    section: &Section<'_>,
    mode: &Spanned<MediaMode>,
    av: Option<&AvService>,
    interfaces: &[Interface],
) {
    let refuse = |what: &str, mend: &str| section.sink.error(&mode.span(), what, mend);
    match (mode.get_ref(), av) {
        (MediaMode::Relay, None) => refuse(
            "a relay has no addresses without [service.av]",
            "add [service.av] with listen and inside, or write mode = \"off\"",
        ),
        (MediaMode::Relay, Some(av)) if av.inside.is_empty() => refuse(
            "a relay has no address towards the inside",
            "add service.av.inside = [\"10.0.0.10\"], or write mode = \"off\"",
        ),
        (MediaMode::Pinhole, _)
            if !interfaces.is_empty() && !interfaces.iter().any(|i| i.zone == Zone::Internal) =>
        {
            refuse(
                "pinholes lead from one zone to the other, and no interface belongs to the internal one",
                "give the interface towards the organisation zone = \"internal\", or write mode = \"off\"",
            );
        }
        _ => {}
    }
}

fn check_times(section: &Section<'_>, settings: &MediaSettings) {
    if settings.silence > settings.longest_call {
        section.sink.error(
            &section.key_span("silence"),
            "a call would end before it is silent for so long",
            "write at most longest_call",
        );
    }
    if settings.mode == MediaMode::Off {
        for key in ["path", "silence", "longest_call"].into_iter().filter(|key| section.has(key)) {
            section.sink.warn(
                &section.key_span(key),
                "no media passes, so this has no effect",
                "write mode = \"relay\" or \"pinhole\", or take it out",
            );
        }
    }
}

/// `modalities = ["im", "presence"]`: all, when the file does not say.
pub(super) fn modalities(section: &Section<'_>) -> Modalities {
    let stated = section.parsed_list("modalities", modality);
    if !section.has("modalities") {
        return Modalities::ALL;
    }
    no_duplicates(section, &stated, "the modality");
    if section.is_empty("modalities") {
        section.sink.error(
            &section.key_span("modalities"),
            "nothing at all is allowed",
            "name modalities, or refuse the whole: block the partner, or write federation = false",
        );
    }
    stated.into_iter().map(Spanned::into_inner).collect()
}

fn modality(text: &str) -> Result<Modality, Fault> {
    text.parse().map_err(|known: UnknownModality| {
        Fault::new(format!("{} is no modality", quoted(text)), format!("write {known}"))
    })
}
