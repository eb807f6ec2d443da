//! What `make dist` has built: it runs anywhere, and is what its checksums say.

use std::{fs, path::Path, process::Command};

use wire_tests::{Lab, LabError, Result, binary, check, output};

use crate::shipped::{built_as, lab};

#[test]
#[ignore = "`make test-system` runs it"]
fn the_shipped_binary_and_that_of_the_package_need_no_library_and_no_loader() -> Result {
    let lab = lab("static")?;
    let package = built_as("wire-agent_", ".deb")?;
    let said = alone(&lab, "shipped", &built_as("wire-agent-", "")?)?;
    check(said.starts_with("wire-agent "), || said)?;
    let unpacked = lab.run().dir().join("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&unpacked))?;
    alone(&lab, "packaged", &unpacked.join("usr/bin/wire-agent"))?;
    let fields = output(Command::new("dpkg-deb").arg("--field").arg(&package).arg("Depends"))?;
    check(!fields.contains("libc6"), || format!("it has all it needs of libraries, but depends on {fields}"))?;
    // One that is not static does not run there, or this says nothing.
    let linked = alone(&lab, "linked", &binary()?);
    check(linked.is_err(), || format!("a linked program runs without its loader: {linked:?}"))
}

#[test]
#[ignore = "`make test-system` runs it"]
fn the_checksums_are_those_of_all_that_is_shipped() -> Result {
    let lab = lab("checksums")?;
    let files = [built_as("wire-agent-", "")?, built_as("wire-agent_", ".deb")?];
    let copied = lab.run().dir().join("checked");
    fs::create_dir_all(&copied).map_err(LabError::io("cannot create a folder"))?;
    for file in files.iter().chain([&built_as("SHA256SUMS", "")?]) {
        fs::copy(file, copied.join(file.file_name().unwrap_or_default()))
            .map_err(LabError::io("cannot copy a file"))?;
    }
    let verify = || output(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&copied));
    let said = verify()?;
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        check(said.contains(&format!("{name}: OK")), || format!("{name} has no checksum:\n{said}"))?;
        // A byte less is noticed.
        let copy = copied.join(&name);
        let whole = fs::read(&copy).map_err(LabError::io("cannot read a file"))?;
        fs::write(&copy, &whole[..whole.len() - 1]).map_err(LabError::io("cannot write a file"))?;
        check(verify().is_err(), || format!("{name} may be another"))?;
        fs::write(&copy, &whole).map_err(LabError::io("cannot write a file"))?;
    }
    Ok(())
}

/// Runs a program in a root that has nothing but it.
fn alone(lab: &Lab, name: &str, program: &Path) -> Result<String> {
    let root = lab.run().dir().join(name);
    fs::create_dir_all(&root).map_err(LabError::io("cannot create a folder"))?;
    fs::copy(program, root.join("program")).map_err(LabError::io("cannot copy a program"))?;
    output(Command::new("chroot").arg(&root).args(["/program", "--version"]))
}
