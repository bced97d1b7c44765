//! `[pool]`: what several appliances behind one SRV record share: the key that signs Record-Route,
//! so that each of them routes what belongs to another's dialogs.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::{
    certificates::read_secret, findings::printable, model::Pool, reader::Section,
    services::file_named,
};

/// Bytes of a key.
const KEY: usize = 32;

/// `look`: at the files that it names.
pub(super) fn pool(root: &Section<'_>, base: &Path, look: bool) -> Pool {
    let section = root.section("pool");
    if section.exists() {
        section.require("key", "add key = \"pool.key\"; `openssl rand 32` makes one");
    }
    let names = section.texts("key");
    let files: Vec<_> = names.iter().filter_map(|text| file_named(&section, base, text)).collect();
    if section.is_empty("key") || names.len() > 2 {
        section.sink.error(
            &section.key_span("key"),
            format!("pool.key names {} files", names.len()),
            "name one, or two while keys change: the first signs, both are believed",
        );
    }
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for file in files.iter().filter(|_| look) {
        let Some(key) = read_secret(section.sink, file) else { continue };
        check(&section, file, &key, &keys);
        keys.push(key);
    }
    section.finish();
    Pool { keys: files.into_iter().map(Spanned::into_inner).collect() }
}

fn check(section: &Section<'_>, file: &Spanned<PathBuf>, key: &[u8], before: &[Vec<u8>]) {
    let shown = printable(&file.get_ref().display().to_string(), 200);
    let mend = format!("make one with `openssl rand -out {shown} 32`, and copy it to each member");
    if key.len() != KEY {
        let fault = format!("{shown} holds {} bytes, and a key has {KEY}", key.len());
        section.sink.error(&file.span(), fault, mend);
    } else if key.iter().all(|byte| Some(byte) == key.first()) {
        section.sink.error(&file.span(), format!("{shown} is one byte over and over"), mend);
    } else if before.iter().any(|other| other == key) {
        section.sink.error(
            &file.span(),
            "both files hold the same key",
            "name it once, or the new one first and the old one second",
        );
    }
}
