//! What the papers say is so: the README's first example, its options, and the Rust version that is promised.

use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_first_example_of_the_readme_is_hello() {
    let hello = read("examples/hello.rs");
    let code = hello.split_once("\nuse ").expect("hello starts with its imports").1;
    assert!(
        read("README.md").contains(code.trim_end()),
        "the README's first example has drifted from examples/hello.rs"
    );
    assert!(hello.lines().count() <= 40, "hello is to be read in one glance");
}

#[test]
fn every_option_is_in_the_readme() {
    let readme = read("README.md");
    let mut options = 0;
    for builder in ["src/node/builder.rs", "src/group/builder.rs"] {
        let source = read(builder);
        for line in source.lines().filter(|line| line.contains("pub fn ") && line.contains("self")) {
            let name = line.trim_start().trim_start_matches("pub fn ").split(['(', '<']).next().unwrap();
            let is_option = !["network", "build"].contains(&name);
            assert!(
                !is_option || readme.contains(&format!("`{name}(")),
                "the option {name} is not in the README's tables"
            );
            options += usize::from(is_option);
        }
    }
    assert!(options > 20, "only {options} options were found");
}

#[test]
fn no_dependency_asks_for_a_newer_rust_than_is_promised() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    // What other platforms need may not be there to be looked at.
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let about = String::from_utf8(rustc.stdout).unwrap();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features", "--offline", "--locked"])
        .args(["--filter-platform", host, "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let version = |package: &serde_json::Value| -> Vec<u32> {
        let stated = package["rust_version"].as_str().unwrap_or("1.0");
        stated.split('.').map(|part| part.parse().unwrap()).collect()
    };
    let packages = metadata["packages"].as_array().unwrap();
    let ours = version(packages.iter().find(|package| package["name"] == "peerage").unwrap());
    for package in packages {
        assert!(version(package) <= ours, "{} asks for Rust {}", package["name"], package["rust_version"]);
    }
}
