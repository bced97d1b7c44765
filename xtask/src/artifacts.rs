//! Building the workspace's programs and learning where cargo put them.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cargo, say, show};

/// Builds the daemon; where the binary is.
pub fn edge(release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", "edge-user", "--bin", "edge"]);
    executable(build(command, release)?, "edge")
}

/// Builds the daemon and a program of the tests that runs it, in one go so that both are of one
/// build; where the program is.
pub fn edge_and(program: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", "edge-user", "--package", "edge-tests"]);
    command.args(["--bin", "edge", "--bin", program]);
    executable(build(command, release)?, program)
}

/// Runs it, its messages going to standard error; the executables it made.
fn build(mut command: Command, release: bool) -> Result<Vec<PathBuf>> {
    if release {
        command.arg("--release");
    }
    command.arg("--locked");
    say(format!("$ {}", show(&command)));
    command.arg("--message-format=json-render-diagnostics");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the build failed; `cargo xtask setup` shows what this machine has");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable_of).collect())
}

/// Builds programs of tests; where they are.
pub fn tests(names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    // The whole workspace's features, or its libraries would be built once more.
    command.args(["test", "--workspace", "--no-run"]);
    command.args(names.iter().flat_map(|name| ["--test", name]));
    let mut built = build(command, false)?;
    // Cargo builds the package's other programs too, into the folder above.
    built.retain(|file| file.parent().is_some_and(|folder| folder.ends_with("deps")));
    Ok(built)
}

/// Builds a program of the tests; where it is.
pub fn helper(name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--workspace", "--bin", name]);
    executable(build(command, false)?, name)
}

fn executable(built: Vec<PathBuf>, name: &str) -> Result<PathBuf> {
    built
        .into_iter()
        .find(|file| file.file_name().is_some_and(|file| file == name))
        .with_context(|| format!("cargo built no `{name}`"))
}

/// The path in one of cargo's messages. Its form is fixed (compact JSON), so looking for the key
/// is enough and saves this program a JSON library.
fn executable_of(message: &str) -> Option<PathBuf> {
    if !message.starts_with(r#"{"reason":"compiler-artifact""#) {
        return None;
    }
    let (_, rest) = message.split_once(r#","executable":""#)?;
    let mut path = String::new();
    let mut letters = rest.chars();
    loop {
        match letters.next()? {
            '"' => return Some(PathBuf::from(path)),
            '\\' => path.push(letters.next().filter(|letter| "\"\\/".contains(*letter))?),
            letter => path.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_read_from_cargos_message() {
        let artifact = |end: &str| format!(r#"{{"reason":"compiler-artifact","target":{{}}{end}"#);
        let table = [
            (artifact(r#","executable":"/t/debug/edge","fresh":true}"#), Some("/t/debug/edge")),
            (artifact(r#","executable":"/a \"b\"/\\edge","fresh":true}"#), Some("/a \"b\"/\\edge")),
            (artifact(r#","executable":null,"fresh":true}"#), None),
            (artifact(r#","executable":"/cut"#), None),
            (r#"{"reason":"build-finished","executable":"/x"}"#.to_owned(), None),
            (String::new(), None),
        ];
        for (message, expected) in table {
            assert_eq!(executable_of(&message), expected.map(PathBuf::from), "{message}");
        }
    }
}
