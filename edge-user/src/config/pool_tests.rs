//! `[pool]`: which files are keys.

use super::{
    tests_support::{example, good_files},
    *,
};

/// Name, content and mode.
type File<'a> = (&'a str, Vec<u8>, u32);

fn findings(keys: &str, files: &[File<'_>]) -> (Option<Config>, String) {
    let folder = good_files();
    for (name, bytes, mode) in files {
        folder.write(name, bytes, *mode);
    }
    let text = format!("{}\n[pool]\n{keys}\n", example());
    folder.write("edge.toml", text, 0o644);
    let checked = check(&folder.0.join("edge.toml"));
    (checked.config, checked.findings.to_string())
}

#[test]
fn a_pools_key_is_a_file_of_32_bytes_that_nobody_else_reads() {
    let key = |first: u8| (first..first + 32).collect::<Vec<u8>>();
    type Row<'a> = (&'a str, &'a [File<'a>], &'a str);
    let rows: &[Row<'_>] = &[
        ("key = \"a.key\"", &[("a.key", key(1), 0o600)], ""),
        ("key = [\"a.key\", \"b.key\"]", &[("a.key", key(1), 0o600), ("b.key", key(2), 0o640)], ""),
        ("key = \"a.key\"", &[], "a.key"),
        ("key = \"a.key\"", &[("a.key", key(1), 0o604)], "is open to others (mode 0604)"),
        ("key = \"a.key\"", &[("a.key", vec![1; 31], 0o600)], "holds 31 bytes, and a key has 32"),
        ("key = \"a.key\"", &[("a.key", vec![0; 32], 0o600)], "one byte over and over"),
        (
            "key = [\"a.key\", \"b.key\"]",
            &[("a.key", key(1), 0o600), ("b.key", key(1), 0o600)],
            "both files hold the same key",
        ),
        ("", &[], "add key = \"pool.key\"; `openssl rand 32` makes one"),
        ("key = []", &[], "pool.key names 0 files"),
        ("key = [\"a\", \"b\", \"c\"]", &[], "pool.key names 3 files"),
        ("key = \"a.key\"\nkeys = 1", &[("a.key", key(1), 0o600)], "keys"),
    ];
    for (keys, files, expected) in rows {
        let (config, findings) = findings(keys, files);
        assert_eq!(config.is_some(), expected.is_empty(), "{keys}: {findings}");
        assert!(findings.contains(expected), "{keys}: {findings}");
        if let Some(config) = config {
            assert_eq!(config.pool.keys.len(), files.len());
        }
    }
}
