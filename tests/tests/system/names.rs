//! The shipped binary resolves names where /etc/nsswitch.conf has modules that a static C library cannot load.

use std::{fs, path::PathBuf, process::Command};

use wire_tests::{LabError, Result, check, output};

use crate::shipped::{built_as, lab};

/// Makes another Debian's root with this nsswitch.conf and asks there for etcd by a name. The overlay is gone with the process.
const ASK: &str = r#"
set -eu
ip link set lo up
mount -t tmpfs tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root"
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
libraries=$(dirname "$(find "$DIR/root/usr/lib" -name libnss_hesiod.so.2)")
# Any module beside files and dns will do, under the names that Debian, Flatcar and systemd use.
for module in usrfiles myhostname resolve; do
    [ -e "$libraries/libnss_$module.so.2" ] || cp "$libraries/libnss_hesiod.so.2" "$libraries/libnss_$module.so.2"
done
echo "hosts: $HOSTS" >"$DIR/root/etc/nsswitch.conf"
printf '127.0.0.1 localhost\n127.0.0.1 etcd.in-hosts\n' >"$DIR/root/etc/hosts"
echo 'nameserver 127.0.0.1' >"$DIR/root/etc/resolv.conf"
cp "$PROGRAM" "$DIR/root/wire-agent"
set +e
chroot "$DIR/root" /wire-agent config get --etcd-endpoints="http://$NAME:2379" 2>&1
echo "status $?"
"#;

#[test]
#[ignore = "`make test-system` runs it"]
fn names_are_resolved_by_the_static_binary_whatever_nsswitch_has() -> Result {
    let lab = lab("names")?;
    let program = built_as("wire-agent-", "")?;
    let symbols = output(Command::new("nm").arg(&program))?;
    check(symbols.contains(" main"), || format!("{} has no symbols", program.display()))?;
    // The linker's warning about it stays where the function itself is left out.
    let asks = symbols.lines().any(|line| line.ends_with(" getaddrinfo"));
    check(!asks, || "the C library resolves names in it".to_owned())?;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/system/forky/root");
    let dir = lab.run().dir().join("root");
    fs::create_dir_all(&dir).map_err(LabError::io("cannot create a folder"))?;
    for hosts in
        ["files usrfiles dns", "files myhostname resolve [!UNAVAIL=return] dns", "resolve [!UNAVAIL=return] files dns"]
    {
        for (name, expected) in [
            ("nothing.example", "the name nothing.example is not in /etc/hosts, and DNS does not resolve it"),
            ("etcd.in-hosts", "127.0.0.1:2379: Connection refused"),
            ("localhost", "127.0.0.1:2379: Connection refused"),
        ] {
            let mut ask = Command::new("unshare");
            ask.args(["--mount", "--net", "--propagation", "private", "bash", "-c", ASK]);
            ask.env("DIR", &dir).env("ROOT", &root).env("PROGRAM", &program).env("HOSTS", hosts).env("NAME", name);
            let said = output(&mut ask)?;
            check(said.contains(expected) && said.ends_with("status 69\n"), || format!("{hosts}, {name}: {said}"))?;
        }
    }
    Ok(())
}
