//! Containers on whole machines, and what reaches them.

use std::{net::IpAddr, time::Duration};

use wire_tests::{Host, Machine, Result, eventually};

/// Docker keeps the subnet of its bridge, whoever gave it: without these it chooses as at its first start.
pub(crate) const DOCKER_ANEW: &str = "systemctl stop docker.service docker.socket
    if [ -e /sys/class/net/docker0 ]; then ip link delete docker0; fi
    rm -rf /var/lib/docker/network; systemctl start docker";

/// Makes the image that all containers have.
pub(crate) fn import_image(machine: &Machine) -> Result {
    machine
        .sh("mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/
             for applet in sh ping httpd nc true; do ln -sf busybox /tmp/image/bin/$applet; done
             tar -C /tmp/image -c . | docker import - lab >/dev/null")
        .map(drop)
}

/// A container `web` that serves pages, by a published port too.
pub(crate) fn start_container(machine: &Machine) -> Result {
    import_image(machine)?;
    machine.sh("docker run -d --name web -p 8080:80 lab httpd -f -p 80 -h /bin >/dev/null").map(drop)
}

/// The same container after Docker was started anew.
pub(crate) fn start_again(machine: &Machine) -> Result {
    machine.sh("docker start web >/dev/null").map(drop)
}

pub(crate) fn container_address(machine: &Machine) -> Result<String> {
    address_of(machine, "web")
}

pub(crate) fn address_of(machine: &Machine, name: &str) -> Result<String> {
    // Docker 28 has it in the networks alone.
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    machine.sh(&format!("docker inspect -f '{format}' {name}")).map(|text| text.trim().to_owned())
}

/// Every container reaches every other, its outside, and the ports that the other hosts publish.
pub(crate) fn reach_each_other(hosts: &[Host; 3], machines: &[Machine]) -> Result {
    let addresses = machines.iter().map(container_address).collect::<Result<Vec<_>>>()?;
    // The underlay's own gateway knows nothing of the overlay: it answers only what is masqueraded.
    let outside: IpAddr = [192, 168, 64, 254].into();
    for (from, machine) in machines.iter().enumerate() {
        machine.sh(&format!("docker exec web ping -c 1 -W 2 {outside}"))?;
        for (to, host) in hosts.iter().enumerate().filter(|(to, _)| *to != from) {
            machine.sh(&format!("docker exec web ping -c 1 -W 2 {}", addresses[to]))?;
            fetch(machine, &addresses[to], 80)?;
            fetch(machine, &host.v4().to_string(), 8080)?;
        }
    }
    Ok(())
}

/// A container asks a server for a page, which may be about to start.
pub(crate) fn fetch(machine: &Machine, address: &str, port: u16) -> Result {
    eventually(Duration::from_secs(20), || machine.sh(&fetch_at_once(address, port)).map(drop)).map(drop)
}

/// The command for that (not by wget: busybox's crashes here).
pub(crate) fn fetch_at_once(address: &str, port: u16) -> String {
    let ask = format!("printf 'HEAD /busybox HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port}");
    format!("docker exec web sh -c \"{ask}\" | grep -q '200 OK'")
}
