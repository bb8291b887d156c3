//! A place belongs to the work of a server. For as long as its holder waits for something else, it is lent to others.
//!
//! A client that reads its answer slowly, or says its request slowly, keeps a request open for as long as it likes; so does a stream
//! whose server has nothing to say yet. If these kept their places, a few of them would stop a pool that has nothing to do. So every
//! worker looks at the places of its requests ten times a second, and lends those whose holders have waited for their clients more
//! than for the server, or for the server so long that it is hardly at work.
//!
//! No more places are lent than may be under way ([`Gate::lend`](super::Gate::lend)): a server that keeps a thread busy for such a
//! request, as some do whose answer is larger than what the kernels' buffers hold, has at most twice its limit to do. A place that was
//! lent while its client said the request is taken back when all is said, because that is when the work begins.

use super::gate::Idle;
use super::law::CLIPPED;
use super::passage::{Passages, worker};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a worker looks at the places of its requests.
const LOOKED_AT: Duration = Duration::from_millis(100);

/// A client that was waited for less is none that keeps others waiting: so much the way to it takes.
const CLIENT_LEAST: Duration = Duration::from_millis(100);

/// A server that has said nothing for so long may keep a stream open; or for sixteen times what a request takes there when nobody is in
/// its way, where that is longer: no more is believed of a request anywhere.
const SILENT_LEAST: Duration = Duration::from_secs(10);

/// Servers that work at one request at a time: the one that is asked, the one before whose end is not known yet, and a second one where
/// the first takes long.
const SERVERS: usize = 3;

/// How a request comes whose client may take its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coming {
    /// All of it was there from the beginning.
    There,
    /// Nobody waits for its client; what was waited for last came then.
    Came(Instant),
    /// Its client is waited for.
    Awaited,
    /// The rest of it never comes.
    Failed,
}

/// A server that works at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Nowhere,
    /// It is counted there.
    Counted(usize),
    /// It is there, and its place is lent.
    Lent(usize),
}

/// A place, as it is seen by whoever has it and by whoever lends it.
pub(super) struct Held {
    pub passages: Arc<Passages>,
    pub coming: Cell<Coming>,
    /// The answer has begun: from here on its reader is the client that may be waited for.
    reading: Cell<bool>,
    /// The client is waited for, else the server; since then.
    client: Cell<bool>,
    since: Cell<Instant>,
    /// How long the client was waited for before, of the time since `began`.
    clients: Cell<Duration>,
    began: Cell<Instant>,
    lent: Cell<Option<Idle>>,
    /// Whoever had it needs none any more: what is still said of the request changes nothing.
    over: Cell<bool>,
    /// It could not be lent, and was counted for that.
    kept: Cell<bool>,
    servers: [Cell<At>; SERVERS],
    /// Its place among those of the worker.
    at: Cell<usize>,
}

impl Held {
    pub fn new(passages: &Arc<Passages>) -> Rc<Held> {
        let now = base_runtime::now();
        let held = Rc::new(Held {
            passages: passages.clone(),
            coming: Cell::new(Coming::There),
            reading: Cell::new(false),
            client: Cell::new(false),
            since: Cell::new(now),
            clients: Cell::new(Duration::ZERO),
            began: Cell::new(now),
            lent: Cell::new(None),
            over: Cell::new(false),
            kept: Cell::new(false),
            servers: [const { Cell::new(At::Nowhere) }; SERVERS],
            at: Cell::new(0),
        });
        enlist(&held);
        held
    }

    /// It goes to this server now: counted there until it [leaves](Held::leave). `None`: at more servers than are kept.
    pub fn goes_to(&self, server: usize) -> Option<usize> {
        if !self.client.get() {
            self.since.set(base_runtime::now());
        }
        let free = self.servers.iter().position(|at| at.get() == At::Nowhere)?;
        self.servers[free].set(At::Counted(server));
        Some(free)
    }

    /// It has left the server that it went to.
    pub fn leave(&self, at: Option<usize>, server: usize) {
        if at.is_none_or(|at| matches!(self.servers[at].replace(At::Nowhere), At::Counted(_))) {
            self.passages.gate().end(server);
        }
    }

    /// The request's client is waited for, or no more.
    pub fn awaits_sender(&self, client: bool) {
        if !self.reading.get() {
            self.turn(client);
        }
    }

    /// The answer has begun. Until somebody asks for more of it, nobody waits for the server.
    pub fn reads(&self) {
        let now = base_runtime::now();
        self.reading.set(true);
        self.client.set(true);
        self.clients.set(Duration::ZERO);
        self.since.set(now);
        self.began.set(now);
    }

    /// The answer's client is waited for, or no more.
    pub fn awaits_reader(&self, client: bool) {
        self.turn(client);
    }

    /// All of the request is there: the work begins. That its client was waited for before is no reason to lend the place any more.
    pub fn said_all(&self) {
        if self.over.get() {
            return;
        }
        if !self.reading.get() {
            self.turn(false);
            self.clients.set(Duration::ZERO);
            self.began.set(base_runtime::now());
        }
        if self.lent.get() != Some(Idle::Sender) {
            return;
        }
        self.lent.set(None);
        let gate = self.passages.gate();
        gate.take_back();
        for at in &self.servers {
            if let At::Lent(server) = at.get() {
                at.set(At::Counted(server));
                gate.begin(server);
            }
        }
    }

    /// Whoever had it needs none any more. An upload may go on beside the answer, or after it.
    pub fn give_up(self: &Rc<Self>) {
        delist(self);
        if self.over.replace(true) {
            return;
        }
        match self.lent.take() {
            None => self.passages.leave(base_runtime::now()),
            Some(_) => self.passages.gate().end_lent(),
        }
    }

    fn turn(&self, client: bool) {
        if self.over.get() || self.client.get() == client {
            return;
        }
        let now = base_runtime::now();
        let since = self.since.replace(now);
        if self.client.replace(client) {
            self.clients.set(self.clients.get() + now.saturating_duration_since(since));
        }
    }

    /// Why its place may be lent now.
    fn idles(&self, now: Instant) -> Option<Idle> {
        let lasts = now.saturating_duration_since(self.since.get());
        let client = self.clients.get() + if self.client.get() { lasts } else { Duration::ZERO };
        if client >= CLIENT_LEAST && client > now.saturating_duration_since(self.began.get()) / 2 {
            return Some(if self.reading.get() { Idle::Reader } else { Idle::Sender });
        }
        let takes = self.passages.gate().unloaded().unwrap_or_default().mul_f64(CLIPPED);
        (!self.client.get() && lasts >= takes.max(SILENT_LEAST)).then_some(Idle::Silent)
    }

    /// Lends its place where it may be.
    fn look(&self, now: Instant) {
        if self.over.get() || self.lent.get().is_some() {
            return;
        }
        let Some(idle) = self.idles(now) else { return };
        if !self.passages.lend(now, idle) {
            if !self.kept.replace(true) {
                self.passages.gate().keep(worker());
            }
            return;
        }
        self.lent.set(Some(idle));
        for at in &self.servers {
            if let At::Counted(server) = at.get() {
                at.set(At::Lent(server));
                self.passages.gate().end(server);
            }
        }
    }
}

thread_local! {
    /// The places of this worker's requests, each at the index that it knows.
    static HELD: RefCell<Vec<Rc<Held>>> = const { RefCell::new(Vec::new()) };
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

fn enlist(held: &Rc<Held>) {
    HELD.with_borrow_mut(|all| {
        held.at.set(all.len());
        all.push(held.clone());
    });
    if !LOOKS.get() && base_runtime::try_worker_index().is_some() {
        LOOKS.set(true);
        base_runtime::spawn(look_after(Looks)).detach();
    }
}

fn delist(held: &Rc<Held>) {
    // What outlives its worker's list is in none.
    let _ = HELD.try_with(|all| {
        let mut all = all.borrow_mut();
        let at = held.at.get();
        if all.get(at).is_some_and(|there| Rc::ptr_eq(there, held)) {
            all.swap_remove(at);
            if let Some(moved) = all.get(at) {
                moved.at.set(at);
            }
        }
    });
}

/// Somebody looks, until this is dropped.
struct Looks;

impl Drop for Looks {
    fn drop(&mut self) {
        let _ = LOOKS.try_with(|looks| looks.set(false));
    }
}

/// Looks at the places of this worker's requests while there are any.
async fn look_after(_looks: Looks) {
    loop {
        base_runtime::time::sleep(LOOKED_AT).await;
        if !look_at_all(base_runtime::now()) {
            return;
        }
    }
}

/// Whether there are any.
fn look_at_all(now: Instant) -> bool {
    HELD.with_borrow(|all| {
        all.iter().for_each(|held| held.look(now));
        !all.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::super::passage::{Admission, Pass};
    use super::super::{Bounds, Rank, Who};
    use super::*;
    use base_model::Priority;

    const SECOND: Duration = Duration::from_secs(1);

    fn passages(name: &str, most: u32) -> Arc<Passages> {
        let bounds = Bounds { least: most, first: most, most, queue: 0, target: Duration::from_millis(1) };
        Passages::new(name, bounds, Duration::ZERO, vec!["a".to_owned()], 1)
    }

    fn enter(passages: &Arc<Passages>) -> Option<Pass> {
        let who = Who { rank: Rank::new(Priority::Normal, 1, 0), route: 1, client: 1 };
        match passages.admit(&who, None) {
            Admission::Passed(pass) => Some(pass),
            _ => None,
        }
    }

    /// Under way in all and at the server, and lent.
    fn figures(passages: &Passages) -> (u32, u32, u32) {
        let shown = passages.gate().shown();
        (shown.under_way, passages.gate().server_shown(0).under_way, shown.lent)
    }

    #[test]
    fn a_reader_who_takes_its_time_holds_no_place() {
        let passages = passages("reader", 1);
        let pass = enter(&passages).unwrap();
        let attended = pass.begin(0);
        pass.reads();
        pass.asked();
        let began = base_runtime::now();
        look_at_all(began + SECOND);
        assert_eq!(figures(&passages), (1, 1, 0), "the server is what is waited for");
        pass.handed();
        look_at_all(began + CLIENT_LEAST / 2);
        assert!(enter(&passages).is_none(), "so long the way to a client takes");
        look_at_all(began + SECOND);
        assert_eq!(figures(&passages), (0, 0, 1));
        let other = enter(&passages).expect("the place is lent");
        assert!(enter(&passages).is_none());
        // What comes of it changes nothing any more.
        pass.asked();
        look_at_all(began + SECOND * 2);
        drop((attended, pass));
        assert_eq!(figures(&passages), (1, 0, 0));
        drop(other);
        assert_eq!(figures(&passages), (0, 0, 0));
    }

    #[test]
    fn a_sender_who_takes_its_time_has_its_place_once_all_is_said() {
        let passages = passages("sender", 1);
        let mut pass = enter(&passages).unwrap();
        let progress = pass.comes();
        let attended = pass.begin(0);
        progress.awaited();
        look_at_all(base_runtime::now() + SECOND);
        assert_eq!((figures(&passages), attended.since()), ((0, 0, 1), None));
        let other = enter(&passages).expect("the place is lent");
        progress.came();
        assert_eq!(figures(&passages), (1, 0, 1), "it goes on to speak");
        progress.said_all();
        assert_eq!(figures(&passages), (2, 1, 0), "the work begins, whether there is room or not");
        drop(other);
        assert!(enter(&passages).is_none(), "and nobody else begins before there is");
        drop((attended, pass));
        assert_eq!(figures(&passages), (0, 0, 0));
    }

    /// As an upload does that runs on after its answer.
    #[test]
    fn what_is_said_after_the_place_was_given_up_changes_nothing() {
        let passages = passages("late", 1);
        for lent in [true, false] {
            let mut pass = enter(&passages).unwrap();
            let progress = pass.comes();
            let attended = pass.begin(0);
            progress.awaited();
            if lent {
                look_at_all(base_runtime::now() + SECOND);
                assert_eq!(figures(&passages), (0, 0, 1));
            }
            drop(pass);
            progress.came();
            progress.said_all();
            progress.awaited();
            look_at_all(base_runtime::now() + SECOND);
            drop(attended);
            progress.said_all();
            assert_eq!(figures(&passages), (0, 0, 0));
        }
        assert!(enter(&passages).is_some());
    }

    #[test]
    fn a_client_that_has_said_all_is_none_that_is_waited_for() {
        let passages = passages("said", 1);
        let mut pass = enter(&passages).unwrap();
        let progress = pass.comes();
        let attended = pass.begin(0);
        progress.awaited();
        std::thread::sleep(CLIENT_LEAST * 3 / 2);
        progress.came();
        progress.said_all();
        look_at_all(base_runtime::now());
        assert_eq!(figures(&passages), (1, 1, 0), "the server works");
        drop((attended, pass));
        assert_eq!(figures(&passages), (0, 0, 0));
    }

    #[test]
    fn a_server_that_says_nothing_for_long_is_hardly_at_work() {
        let passages = passages("silent", 1);
        let pass = enter(&passages).unwrap();
        let (attended, began) = (pass.begin(0), base_runtime::now());
        look_at_all(began + SILENT_LEAST / 2);
        assert_eq!(figures(&passages), (1, 1, 0));
        look_at_all(began + SILENT_LEAST * 2);
        assert_eq!(figures(&passages), (0, 0, 1));
        drop((attended, pass));
        // Where requests take long with nobody in their way, that is no silence.
        let pass = enter(&passages).unwrap();
        for at in 1..40u32 {
            passages.gate().answered(SECOND * at, 0, 0, SECOND * 5, 1, false);
        }
        look_at_all(base_runtime::now() + SILENT_LEAST * 2);
        assert_eq!(figures(&passages), (1, 0, 0), "{:?}", passages.gate().unloaded());
        look_at_all(base_runtime::now() + SILENT_LEAST * 9);
        assert_eq!(figures(&passages), (0, 0, 1));
        drop(pass);
    }

    #[test]
    fn no_more_are_lent_than_may_be_under_way() {
        let passages = passages("bound", 2);
        let mut slow = Vec::new();
        while let Some(pass) = enter(&passages) {
            pass.reads();
            pass.handed();
            slow.push(pass);
            look_at_all(base_runtime::now() + SECOND);
            assert!(slow.len() < 10, "there is a bound");
        }
        let shown = passages.gate().shown();
        assert_eq!((slow.len(), shown.under_way, shown.lent, shown.kept_total), (4, 2, 2, 2));
        assert_eq!(shown.lent_total[Idle::Reader as usize], 2);
        // Who keeps its place is counted once, and lends it when there is room.
        look_at_all(base_runtime::now() + SECOND);
        assert_eq!(passages.gate().shown().kept_total, 2);
        slow.remove(0);
        look_at_all(base_runtime::now() + SECOND);
        assert_eq!(figures(&passages).2, 2);
        slow.clear();
        assert_eq!(figures(&passages), (0, 0, 0));
        assert!(!look_at_all(base_runtime::now()), "nobody is forgotten");
    }
}
