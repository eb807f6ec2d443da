//! The second act: a network by name over two hosts, with a web server on one and a client on the other.

use std::time::{Duration, Instant};

use serde_json::Value;
use wire_tests::{LabError, Process, Result, binary, check, eventually};

use crate::{
    say, show,
    stage::{Site, Stage},
};

/// The page that the web server has.
const PAGE: &str = "hello from app";

/// Makes the network `app`, attaches a web server and a client, and fetches a page by address.
pub(crate) fn act(stage: &mut Stage) -> Result<String> {
    let [server, client, ..] = &mut stage.sites[..] else {
        return Err(LabError::Wrong("it needs two hosts".to_owned()));
    };
    let helpers = [open_containers(server)?, open_containers(client)?];
    // Without a network of Docker's.
    let web = server.docker.run_with(&["--network=none"])?;
    let caller = client.docker.run_with(&["--network=none"])?;
    let serve = format!("mkdir /www && echo {PAGE} > /www/index.html && httpd -h /www");
    server.docker.docker(&["exec", web.name(), "sh", "-c", &serve])?;

    let begun = Instant::now();
    wire_agent(server, "network create app")?;
    let address = attach(server, web.name())?;
    attach(client, caller.name())?;
    // Not with the image's wget: it asks for names, which a static busybox cannot without the libraries of a whole system.
    let get = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80");
    let answer = client.docker.docker(&["exec", caller.name(), "sh", "-c", &get])?;
    let took = begun.elapsed();
    let page = answer.lines().last().unwrap_or_default();
    check(page == PAGE, || format!("http://{address}/ is {answer:?}"))?;

    let name = server.host.name();
    show::said(&format!("{name}: wire-agent network inspect app"), &wire_agent(server, "network inspect app")?);
    stage.helpers.extend(helpers);
    Ok(format!(
        "a container of h2 fetched http://{address}/ of one of h1: {page:?}; {took:.1?} from `network create` to the page"
    ))
}

/// Starts the agent's helper, which opens containers for it. Under systemd, wire-agent-guests.socket does.
fn open_containers(site: &Site) -> Result<Process> {
    let socket = site.agent.run_dir().join("guests.sock");
    let (ours, docker) = (socket.display().to_string(), site.docker.socket().display().to_string());
    let words = ["guests", "--agent-user=root", "--socket", &ours, "--docker-socket", &docker];
    let helper = site.host.start(binary()?, &words.map(str::to_owned), "guests.log")?;
    eventually(Duration::from_secs(10), || check(socket.exists(), || format!("there is no {ours}")))?;
    Ok(helper)
}

/// Attaches a container, and gives the address that it has on the network.
fn attach(site: &Site, container: &str) -> Result<String> {
    let text = wire_agent(site, &format!("attach {container} app --json"))?;
    let reply: Value = serde_json::from_str(&text).map_err(|error| LabError::Wrong(format!("{error}: {text}")))?;
    let address = reply["attachment"]["endpoints"][0]["address"].as_str();
    let address = address.ok_or_else(|| LabError::Wrong(format!("it has no address: {text}")))?.to_owned();
    say(&format!("{}: wire-agent attach {container} app: {address}", site.host.name()));
    Ok(address)
}

/// The output of `wire-agent …` on a host.
fn wire_agent(site: &Site, words: &str) -> Result<String> {
    let output = site.agent.run_with_its_flags(words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    check(output.status.success(), || format!("wire-agent {words}: {}: {said}", output.status))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
