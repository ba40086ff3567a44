//! The manifests of the workspace: which crates there are, and which of them depend on which.

use std::collections::BTreeMap;

use toml::Table;

/// A crate of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its folder, from the repository's root; empty for the root package.
    pub(crate) folder: String,
    /// Its manifest.
    pub(crate) manifest: Table,
}

/// The packages whose manifests are given by folder, or what is wrong with a manifest.
pub(crate) fn packages(manifests: &BTreeMap<String, String>) -> Result<Vec<Package>, String> {
    let mut found = Vec::new();
    for (folder, text) in manifests {
        let manifest: Table = text.parse().map_err(|error| format!("{folder}/Cargo.toml: {error}"))?;
        let name = manifest.get("package").and_then(|package| package.get("name")?.as_str());
        let name = name.ok_or_else(|| format!("{folder}/Cargo.toml: no package name"))?.to_owned();
        found.push(Package { name, folder: folder.clone(), manifest });
    }
    Ok(found)
}

/// The folders that the root manifest names as members.
pub(crate) fn members(root: &str) -> Result<Vec<String>, String> {
    let manifest: Table = root.parse().map_err(|error| format!("Cargo.toml: {error}"))?;
    let members = manifest.get("workspace").and_then(|workspace| workspace.get("members")?.as_array());
    let members = members.ok_or("Cargo.toml: no workspace members")?;
    Ok(members.iter().filter_map(|member| member.as_str()).map(str::to_owned).collect())
}

/// Dependencies other than those of tests, on whatever platform: package names.
pub(crate) fn dependencies(manifest: &Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(|target| target.as_table());
    let tables =
        platforms.into_iter().flat_map(|target| target.values().filter_map(|table| table.as_table()));
    let mut found = Vec::new();
    for table in tables.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies"] {
            for (key, value) in table.get(kind).and_then(|kind| kind.as_table()).into_iter().flatten() {
                let renamed = value.get("package").and_then(|package| package.as_str());
                found.push(renamed.unwrap_or(key).to_owned());
            }
        }
    }
    found
}

/// The edges between `packages`, as `from -> to`, that are not in `allowed`. Packages in `test_only` may depend
/// on anything, and nothing may depend on them except for tests.
pub(crate) fn forbidden_edges(
    packages: &[Package],
    allowed: &[(&str, &[&str])],
    test_only: &[&str],
) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        if test_only.contains(&package.name.as_str()) {
            continue;
        }
        let targets = allowed.iter().find(|(from, _)| *from == package.name).map(|(_, to)| *to);
        if targets.is_none() {
            found.push(format!("{}: a crate that the architecture does not name", package.name));
        }
        for dependency in dependencies(&package.manifest) {
            let inside = packages.iter().any(|other| other.name == dependency);
            if inside && !targets.unwrap_or_default().contains(&dependency.as_str()) {
                found.push(format!("{} -> {dependency}: not an edge of the architecture", package.name));
            }
        }
    }
    found
}

/// The packages that do not take over the workspace's lints.
pub(crate) fn without_lints(packages: &[Package]) -> Vec<String> {
    let takes = |manifest: &Table| manifest.get("lints")?.get("workspace")?.as_bool();
    packages
        .iter()
        .filter(|package| takes(&package.manifest) != Some(true))
        .map(|package| format!("{}: `[lints] workspace = true` is missing", package.name))
        .collect()
}
