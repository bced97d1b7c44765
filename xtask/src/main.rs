//! Set-up, build, demo, test, bench, package and deploy.
fn main() {}
