//! The example file is valid, and every error is found at its place.

use std::path::Path;

use super::{
    tests_support::{example, good_files},
    *,
};

#[test]
fn the_example_file_is_valid_and_without_warning() {
    let folder = good_files();
    let checked = check_text(&example(), &folder.0.join("edge.toml"), SystemTime::now());
    assert_eq!(checked.findings.render(true), "");
    let config = checked.config.unwrap();
    assert_eq!(config.access.tls.key, folder.0.join("edge.key"));
    assert_eq!(config.inside.tls, Some(config.access.tls.clone()));
    assert_eq!(config.inside.listen, [(Transport::Tls, "10.0.0.10:5061".parse().unwrap())]);
    assert_eq!(config.federation.allowed_domains.len(), 2);
    assert_eq!(config.firewall.rules[0].ports, [(80, 80), (8000, 8009)]);
    assert_eq!(config.management.ports, [22]);
}

#[test]
fn a_missing_file_is_an_error_and_paths_fall_back_to_their_defaults() {
    let path = Path::new("/nonexistent/edge.toml");
    let errors = load(path).unwrap_err();
    assert!(errors.to_string().starts_with("/nonexistent/edge.toml:1:1: error: the file cannot"));
    assert_eq!(paths_only(path).run, Path::new("/run/edge"));
}
