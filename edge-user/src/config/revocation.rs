//! `[revocation]`: lists of certificates that their authorities took back.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use toml::Spanned;

use super::{findings::Sink, model_federation::Revocation, reader::Section, services::file_named};
use crate::net::tls;

/// Lists from files there may be.
const MAX_FILES: usize = 64;

/// `mode`.
const SOFT: &str = "soft";
const HARD: &str = "hard";

/// Reads the section, and the files it names.
/// `look`: at the files that it names, as of then.
pub(super) fn revocation(root: &Section<'_>, base: &Path, look: Option<SystemTime>) -> Revocation {
    let section = root.section("revocation");
    let texts = section.texts("files");
    let files: Vec<Spanned<PathBuf>> =
        texts.iter().filter_map(|text| file_named(&section, base, text)).collect();
    if let Some(text) = texts.get(MAX_FILES) {
        let message = format!("more than {MAX_FILES} lists");
        section.sink.error(&text.span(), message, "set points = true to have them fetched");
    }
    let points = section.boolean("points", false);
    let mode = section.text("mode");
    let hard = match mode.as_ref().map(|mode| (mode, *mode.get_ref())) {
        None | Some((_, SOFT)) => false,
        Some((_, HARD)) => true,
        Some((mode, _)) => {
            section.sink.error(
                &mode.span(),
                "this is no mode",
                "write \"soft\" (refuse what a list names) or \"hard\" (refuse what no current \
                 list clears)",
            );
            false
        }
    };
    if hard
        && files.is_empty()
        && !points
        && let Some(mode) = &mode
    {
        section.sink.error(
            &mode.span(),
            "hard without any list refuses every partner",
            "name lists in files, or set points = true",
        );
    }
    let range = Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
    let refresh = section.duration("refresh", range, Duration::from_secs(3600));
    section.finish();
    if let Some(now) = look {
        for file in files.iter().take(MAX_FILES) {
            check_file(root.sink, file, hard, now);
        }
    }
    Revocation {
        files: files.into_iter().map(Spanned::into_inner).collect(),
        points,
        hard,
        refresh,
    }
}

fn check_file(sink: &Sink<'_>, file: &Spanned<PathBuf>, hard: bool, now: SystemTime) {
    let next_update = match tls::list_file(file.get_ref()) {
        Ok(next_update) => next_update,
        Err(error) => {
            return sink.error(
                &file.span(),
                error.to_string(),
                "name a certificate revocation list in DER or PEM",
            );
        }
    };
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if i64::try_from(seconds).is_ok_and(|now| next_update <= now) {
        let effect = match hard {
            true => "it clears nobody",
            false => "what was taken back since is not known",
        };
        sink.warn(
            &file.span(),
            format!("this list's time is over: {effect}"),
            "fetch the new one from the authority",
        );
    }
}
