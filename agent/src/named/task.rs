//! The task that keeps this host's part in networks by name.
//!
//! Each event, from the session, the store, a command, a job or the clock, only lets it look: at what is wished (the document), at what the store
//! has (the folders), and at what the loop of `Network` was told. What differs begins a job, or sets a share.

mod addresses;
mod attaching;
mod due;
mod filtering;
mod folders;
mod memberships;
mod steps;
mod telling;
mod told;

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{error, info, warn};
use wire_lease::named::{NamedAdmission, NamedRecords, NetworkError, NetworkStore};
use wire_net::{KeyPrefix, NetworkName, chain};

use self::{due::Due, folders::Folders, telling::Telling};
use super::{
    Ground, Leased, Request, Wish,
    attachments::{AttachRequest, Attachments},
    document::{Document, DocumentFile, Entry, Lines},
    jobs::{self, Done, Holding},
    known::KnownFiles,
    part::{Kernel, Part, Trouble},
    undone::{lacks_port, not_done},
};
use crate::{
    attach::Watched,
    datapath::NetworkHandle,
    exit::Exit,
    firewall::{FilterShare, FirewallHandle},
    host::Host,
    loops::Loops,
    ports::Ports,
    status::StatusWriter,
};

/// The pause before the document is written again, if that failed.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct NamedTask<P: Ports> {
    ports: P,
    prefix: KeyPrefix,
    file: DocumentFile,
    known_files: KnownFiles,
    network: NetworkHandle,
    firewall: FirewallHandle,
    status: StatusWriter,
    stood_on: watch::Receiver<Option<Ground<P::Store>>>,
    requests: mpsc::Receiver<Request>,
    /// The ground of the networks now.
    ground: Option<Ground<P::Store>>,
    /// The document as it is on disk, but for the networks, which are in `parts`.
    document: Document,
    lines: Lines,
    /// The networks that the packet filter was told of at the start.
    filtered: Vec<NetworkName>,
    /// True if the disk has all that is in `parts`.
    is_saved: bool,
    /// The reason why it has not, for people.
    unsaved: Option<String>,
    parts: BTreeMap<NetworkName, Part>,
    due: Due,
    folders: Option<Folders>,
    admission: NamedAdmission,
    /// The records that were read from disk, until the store has answered.
    known: Option<NamedRecords>,
    /// When these count although the store could be asked.
    known_at: Option<Instant>,
    /// The records that `admission` follows from; `None` before the first.
    records: Option<NamedRecords>,
    /// When the store is to be asked for this host's memberships; `None` if it was.
    ask_at: Option<Instant>,
    telling: Telling,
    pub(super) attachments: Attachments,
    attaching: mpsc::Receiver<AttachRequest>,
    jobs: JoinSet<Done>,
}

impl<P: Ports> NamedTask<P> {
    pub(super) fn new(
        host: &Host<P>,
        loops: &Loops,
        stood_on: watch::Receiver<Option<Ground<P::Store>>>,
        (requests, attaching): (mpsc::Receiver<Request>, mpsc::Receiver<AttachRequest>),
        watched: Watched,
    ) -> Result<Self, Exit> {
        let folder = &host.settings.folders.state_dir;
        let file = DocumentFile::in_folder(folder);
        let unread = |source| Exit::StateUnread { folder: folder.clone(), source };
        let document = file.load(host.ports.disk()).map_err(unread)?;
        let attachments = Attachments::load(host.ports.has_guests(), folder, watched).map_err(unread)?;
        // Before the flat network wants anything: else the rules of an earlier run would go.
        for (name, _) in document.held() {
            loops.firewall.want(name, FilterShare::Unknown);
        }
        Ok(Self {
            ports: host.ports.clone(),
            prefix: host.settings.prefix.clone(),
            known_files: KnownFiles::in_folder(folder, host.settings.prefix.clone()),
            file,
            network: loops.network.clone(),
            firewall: loops.firewall.clone(),
            status: host.status.clone(),
            stood_on,
            requests,
            ground: None,
            filtered: document.held().map(|(name, _)| name.clone()).collect(),
            document,
            lines: Lines::default(),
            is_saved: true,
            unsaved: None,
            parts: BTreeMap::new(),
            due: Due::default(),
            folders: None,
            admission: NamedAdmission::default(),
            known: None,
            known_at: None,
            records: None,
            ask_at: None,
            telling: Telling::default(),
            attachments,
            attaching,
            jobs: JoinSet::new(),
        })
    }

    pub(super) async fn run(mut self) {
        loop {
            let begun = Instant::now();
            let looked = self.look().await;
            self.publish(&looked);
            self.publish_attachments();
            let next_time = self.next_time(begun);
            tokio::select! {
                changed = self.stood_on.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.due.note_all();
                }
                () = folders::changed(&mut self.folders) => {}
                Some(request) = self.requests.recv() => self.take(request).await,
                Some(request) = self.attaching.recv() => {
                    self.due.note_all();
                    self.take_attach(request).await;
                }
                Ok(()) = self.attachments.running.changed() => self.due.note_all(),
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => {
                        self.due.note_done(&done);
                        self.note(done).await;
                    }
                    Err(error) => error!(%error, "a transaction of a network by name has died"),
                },
                () = until(next_time) => {}
            }
        }
    }

    /// The next time at which something is to be done without an event, after a look at `looked`.
    fn next_time(&self, looked: Instant) -> Option<Instant> {
        let again = self.unsaved.as_ref().map(|_| Instant::now() + SAVE_AGAIN);
        // What is overdue waits until the helper has answered for another.
        let of_guests = self.attachments.spots.next_time().filter(|at| *at > looked);
        // Nobody tells of the end of a container then.
        let is_doubtful = self.attachments.running.borrow().doubt().is_some();
        let of_ended = self.attachments.spots.next_look(looked).filter(|_| is_doubtful);
        let known_at = self.known_at.filter(|at| self.known.is_some() && *at > Instant::now());
        let of_parts = self.parts.values().filter_map(|part| part.next_time(looked));
        let of_store = self.ask_at.into_iter().chain(self.telling.next_time()).filter(|at| *at > looked);
        of_parts.chain(again).chain(of_guests).chain(of_ended).chain(known_at).chain(of_store).min()
    }

    /// Begins a job, of which `otherwise` is the outcome if it dies.
    fn begin(&mut self, otherwise: Done, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.spawn(jobs::safely(otherwise, job));
    }

    /// Takes a command. What it wishes is on disk before anything else is done.
    async fn take(&mut self, Request { network, wish, done }: Request) {
        let Some(host) = self.ground.as_ref().map(|ground| ground.host) else {
            let _ = done.send(Err("the network is not joined yet: see wire-agent status".to_owned()));
            return;
        };
        self.due.note(&network);
        let is_exposed = wish == Wish::Expose;
        if !is_exposed && !self.parts.contains_key(&network) {
            let _ = done.send(Ok(()));
            return;
        }
        let part = self.parts.entry(network.clone()).or_insert_with(|| Part::new(host, Entry::default()));
        part.askers.push(done);
        if part.entry.is_exposed == is_exposed {
            return;
        }
        part.wish(is_exposed);
        info!(%network, exposed = is_exposed, "this host's part in a network by name");
        if let Err(error) = self.save().await
            && let Some(part) = self.parts.get_mut(&network)
        {
            part.answer(&Err(error));
            // As on disk.
            part.wish(!is_exposed);
            if part.entry == Entry::default() {
                self.parts.remove(&network);
            }
        }
    }

    /// Notes the end of a job.
    async fn note(&mut self, done: Done) {
        let now = Instant::now();
        let random = self.ports.random().clone();
        match done {
            Done::Held(name, held) => {
                let Some(part) = self.parts.get_mut(&name) else { return };
                part.is_busy = false;
                match held {
                    Ok(Holding::Kept(kept, foreign)) => {
                        let is_new = part.entry.held.is_none();
                        if part.note_held(*kept, foreign, now) {
                            self.is_saved = false;
                        }
                        if is_new {
                            self.close_if_large(&name);
                        }
                    }
                    // What others have now must not answer here.
                    Ok(Holding::Nothing(kept, error)) => {
                        if part.note_nothing(*kept, now) {
                            self.is_saved = false;
                        }
                        part.put_off(Trouble::Fault(chain(&error)), &random, now);
                    }
                    Ok(Holding::Other) => {
                        part.put_off(Trouble::Fault(super::lack::Lack::Other.to_string()), &random, now);
                    }
                    Err(error) => self.note_failed(&name, &error, now).await,
                }
            }
            Done::Left(name, left) => {
                let Some(part) = self.parts.get_mut(&name) else { return };
                part.is_busy = false;
                match left {
                    // It may be wished again meanwhile; then it joins anew.
                    Ok(()) if part.entry.is_wanted() => part.forget(),
                    Ok(()) => {
                        self.known_files.remove(self.ports.disk(), &name);
                        part.answer(&Ok(()));
                        self.parts.remove(&name);
                    }
                    // If it is wished again, the next join tells what of it is left.
                    Err(error) => {
                        part.put_off(trouble(&error), &random, now);
                        return;
                    }
                }
                self.is_saved = false;
            }
            Done::Saved(name, result) => {
                if let Some(part) = self.parts.get_mut(&name) {
                    part.note_saved(result.is_ok(), now);
                }
                if let Err(why) = result {
                    warn!(network = %name, why, "what is known of a network by name is not saved");
                }
            }
            Done::Memberships(found) => self.note_memberships(found),
            Done::Told(documents, told) => self.note_attachments_told(documents, told),
            Done::Claimed(name, id, claimed) => self.note_claimed(name, id, claimed).await,
            Done::Released(name, room, released) => self.note_released(&name, room, &released),
            Done::Opened(place, process, opened) => self.attachments.spots.note(&place, process, opened, now),
            Done::Filtered(name, number) => self.note_filtered(&name, number),
            Done::Round(name, number) => {
                let is_done = self.note_round(&name, number);
                let Some(part) = self.parts.get_mut(&name) else { return };
                let links = part.links();
                let why = self
                    .status
                    .look(|seen| not_done(seen, &links))
                    .filter(|_| part.progress.kernel == Kernel::Told(number));
                let Some(why) = why else {
                    part.progress.note_round(number, is_done);
                    return;
                };
                // The loop tries it again too, and the status says why.
                part.progress.kernel = Kernel::Nothing;
                part.progress.note_undone(&why);
                if is_done {
                    part.progress.tell_again(&random, now);
                }
                if self.status.look(|seen| lacks_port(seen, &links)) {
                    part.give_up_port();
                }
                let trouble = match part.entry.is_wanted() {
                    true => part.trouble.clone(),
                    false => Trouble::Waits(format!("not all of it could be removed from the kernel: {why}")),
                };
                part.put_off(trouble, &random, now);
            }
        }
    }

    /// Notes that a network could not be joined. Whoever has just asked for one that cannot be is told so, and it is not tried again.
    async fn note_failed(&mut self, name: &NetworkName, error: &NetworkError, now: Instant) {
        let random = self.ports.random().clone();
        if !matches!(error, NetworkError::Store(_)) {
            self.refuse_new(name, &chain(error)).await;
        }
        let Some(part) = self.parts.get_mut(name) else { return };
        if !part.entry.is_wanted() {
            // It is left next.
            return;
        }
        if part.entry.held.is_none() && part.is_awaited() && !matches!(error, NetworkError::Store(_)) {
            part.answer(&Err(chain(error)));
            part.wish(false);
            if !part.entry.is_wanted() {
                self.parts.remove(name);
            }
            self.is_saved = false;
            return;
        }
        part.put_off(trouble(error), &random, now);
    }

    /// Writes the document.
    ///
    /// # Errors
    /// A sentence for people, if it cannot be written.
    async fn save(&mut self) -> Result<(), String> {
        let entries = self.parts.iter().map(|(name, part)| (name, &part.entry));
        let text = self.lines.text(self.document.holder(), entries);
        let (file, disk) = (self.file.clone(), self.ports.disk().clone());
        let saved = self.ports.blocking(move || file.save(&disk, text).map_err(|error| chain(&error))).await;
        let saved = saved.unwrap_or_else(|error| Err(error.to_string()));
        self.is_saved = saved.is_ok();
        saved
    }

    fn store(&self) -> Option<(NetworkStore<P::Store>, Leased)> {
        let ground = self.ground.as_ref()?;
        let store = ground.store.clone()?;
        Some((NetworkStore::new(store, self.prefix.clone(), self.ports.random().clone()), ground.leased))
    }
}

/// The trouble of a network after this error.
fn trouble(error: &NetworkError) -> Trouble {
    match error {
        NetworkError::Store(_) => Trouble::Waits(chain(error)),
        NetworkError::Exists { .. }
        | NetworkError::Missing { .. }
        | NetworkError::Invalid { .. }
        | NetworkError::Default
        | NetworkError::TooMany(_)
        | NetworkError::Full(_)
        | NetworkError::Pool(_)
        | NetworkError::Record(_)
        | NetworkError::Conflict(_)
        | NetworkError::InUse { .. }
        | NetworkError::NoMember { .. }
        | NetworkError::Address { .. }
        | NetworkError::Raced => Trouble::Fault(chain(error)),
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
