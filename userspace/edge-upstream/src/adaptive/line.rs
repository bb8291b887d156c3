//! Where requests wait for a place: bounded, by priority, and within one fair to routes and clients. Pure.
//!
//! Of the highest priority that waits, routes get a place in turn, and of a route its clients in turn (deficit round robin, where every
//! request costs the same). Who comes is served in order of coming; but when the line has not been empty for a while, the newest comes
//! first: whoever waits longest then will most likely not wait any longer, and its answer would reach nobody.
//!
//! A client may take no more places than are free (a dynamic threshold: Choudhury and Hahne, 1998): however many requests one has
//! waiting, there is room for those who have none. Where the line is full, lower priorities make room for higher ones.

use super::rank::Rank;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Priorities there are.
const LEVELS: usize = 4;

/// Requests of one client that count as wanted when they wait at the same time; what it has beyond them is its own affair.
const WANTED_MOST: usize = 4;

/// Who waits, for the order.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    pub rank: Rank,
    /// A hash of what it asks for.
    pub route: u64,
    /// A hash of whose it is.
    pub client: u64,
}

/// A place in the line, for whoever gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    level: usize,
    route: u64,
    client: u64,
    number: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    number: u64,
    since: Duration,
    what: T,
}

/// What became of one that wanted to wait.
#[derive(Debug)]
pub enum Joined<T> {
    /// It waits. `wanted`: it counts among those that are asked for.
    Waits { ticket: Ticket, wanted: bool },
    /// It waits in the place of another one, which does no more.
    Instead { ticket: Ticket, wanted: bool, of: T },
    /// Its client has its share of the line already.
    OverShare(T),
    /// There is no room.
    Full(T),
}

/// Those in turn, by key. Who is served goes to the end.
#[derive(Debug)]
struct Turns<K> {
    order: VecDeque<u64>,
    kept: HashMap<u64, K>,
}

impl<K> Default for Turns<K> {
    fn default() -> Turns<K> {
        Turns { order: VecDeque::new(), kept: HashMap::new() }
    }
}

impl<K: Default> Turns<K> {
    /// That of `key`, made in the first or last place where there is none.
    fn entry(&mut self, key: u64, first: bool) -> &mut K {
        let order = &mut self.order;
        self.kept.entry(key).or_insert_with(|| {
            if first {
                order.push_front(key)
            } else {
                order.push_back(key)
            }
            K::default()
        })
    }

    fn remove(&mut self, key: u64) {
        self.kept.remove(&key);
        // Mostly it is the one in front.
        if self.order.front() == Some(&key) {
            self.order.pop_front();
        } else {
            self.order.retain(|other| *other != key);
        }
    }

    fn rotate(&mut self, key: u64) {
        if self.order.front() == Some(&key) && self.order.len() > 1 {
            self.order.rotate_left(1);
        }
    }
}

type Client<T> = VecDeque<Waiting<T>>;
type Route<T> = Turns<Client<T>>;

/// See the module doc. Times are counted from any beginning.
#[derive(Debug)]
pub struct Line<T> {
    most: usize,
    /// From which time without an empty line on the newest goes first.
    patience: Duration,
    levels: [Turns<Route<T>>; LEVELS],
    count: usize,
    /// Since when it has not been empty.
    standing: Duration,
    next: u64,
    /// By number: since when; for the age of the oldest.
    ages: BTreeMap<u64, Duration>,
}

impl<T> Line<T> {
    pub fn new(most: usize, patience: Duration) -> Line<T> {
        Line {
            most,
            patience,
            levels: Default::default(),
            count: 0,
            standing: Duration::ZERO,
            next: 0,
            ages: BTreeMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the newest goes first.
    pub fn is_overloaded(&self, now: Duration) -> bool {
        self.count > 0 && now.saturating_sub(self.standing) > self.patience
    }

    /// How long the oldest has waited.
    pub fn oldest(&self, now: Duration) -> Duration {
        self.ages.values().next().map_or(Duration::ZERO, |since| now.saturating_sub(*since))
    }

    /// One more wants to wait.
    pub fn join(&mut self, now: Duration, who: &Who, what: T) -> Joined<T> {
        let level = who.rank.level();
        let overloaded = self.is_overloaded(now);
        let has = self.waiting_of(level, who.route, who.client);
        let free = self.most.saturating_sub(self.count);
        let mut of = None;
        if has > 0 && has >= free.max(1) {
            // Its share is full. While the newest goes first its own oldest makes room, which would not be served any more.
            if !overloaded {
                return Joined::OverShare(what);
            }
            of = self.drop_oldest_of(level, who.route, who.client);
        } else if free == 0 {
            let Some(lower) = (0..level).find(|lower| !self.levels[*lower].kept.is_empty()) else {
                return Joined::Full(what);
            };
            of = self.take_last(lower);
        }
        if self.count == 0 {
            self.standing = now;
        }
        let number = self.next;
        self.next += 1;
        self.count += 1;
        self.ages.insert(number, now);
        let route = self.levels[level].entry(who.route, overloaded);
        route.entry(who.client, overloaded).push_back(Waiting { number, since: now, what });
        let ticket = Ticket { level, route: who.route, client: who.client, number };
        let wanted = has < WANTED_MOST;
        match of {
            Some(of) => Joined::Instead { ticket, wanted, of },
            None => Joined::Waits { ticket, wanted },
        }
    }

    /// Who goes next, and how long it has waited.
    pub fn next(&mut self, now: Duration) -> Option<(T, Duration)> {
        let newest_first = self.is_overloaded(now);
        let level = (0..LEVELS).rev().find(|level| !self.levels[*level].kept.is_empty())?;
        let routes = &mut self.levels[level];
        let route_key = *routes.order.front()?;
        let route = routes.kept.get_mut(&route_key)?;
        let client_key = *route.order.front()?;
        let client = route.kept.get_mut(&client_key)?;
        let waiting = if newest_first { client.pop_back() } else { client.pop_front() }?;
        if client.is_empty() {
            route.remove(client_key)
        } else {
            route.rotate(client_key)
        }
        if route.kept.is_empty() {
            routes.remove(route_key)
        } else {
            routes.rotate(route_key)
        }
        self.left(waiting.number);
        Some((waiting.what, now.saturating_sub(waiting.since)))
    }

    /// It waits no more. `None`: it does not wait any longer already.
    pub fn leave(&mut self, ticket: &Ticket) -> Option<T> {
        self.take(ticket.level, ticket.route, ticket.client, |client| {
            client.iter().position(|waiting| waiting.number == ticket.number)
        })
    }

    fn waiting_of(&self, level: usize, route: u64, client: u64) -> usize {
        self.levels[level].kept.get(&route).and_then(|route| route.kept.get(&client)).map_or(0, VecDeque::len)
    }

    fn drop_oldest_of(&mut self, level: usize, route: u64, client: u64) -> Option<T> {
        self.take(level, route, client, |_| Some(0))
    }

    /// The one of a level that would be served last.
    fn take_last(&mut self, level: usize) -> Option<T> {
        let routes = &self.levels[level];
        let route = *routes.order.back()?;
        let client = *routes.kept.get(&route)?.order.back()?;
        self.take(level, route, client, |_| Some(0))
    }

    fn take(
        &mut self,
        level: usize,
        route_key: u64,
        client_key: u64,
        at: impl FnOnce(&Client<T>) -> Option<usize>,
    ) -> Option<T> {
        let routes = &mut self.levels[level];
        let route = routes.kept.get_mut(&route_key)?;
        let client = route.kept.get_mut(&client_key)?;
        let waiting = client.remove(at(client)?)?;
        if client.is_empty() {
            route.remove(client_key);
        }
        if route.kept.is_empty() {
            routes.remove(route_key);
        }
        self.left(waiting.number);
        Some(waiting.what)
    }

    fn left(&mut self, number: u64) {
        self.ages.remove(&number);
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::Priority;

    const MS: Duration = Duration::from_millis(1);

    fn who(priority: Priority, route: u64, client: u64) -> Who {
        Who { rank: Rank::new(priority, client, 0), route, client }
    }

    fn join(line: &mut Line<u32>, at: u32, priority: Priority, route: u64, client: u64, what: u32) -> Joined<u32> {
        line.join(MS * at, &who(priority, route, client), what)
    }

    fn served(line: &mut Line<u32>, at: u32) -> Vec<u32> {
        std::iter::from_fn(|| line.next(MS * at).map(|(what, _)| what)).collect()
    }

    #[test]
    fn priorities_come_first_and_routes_and_clients_take_turns() {
        let mut line = Line::new(100, MS * 1000);
        // Client 1 of route 1 is first with three; others of the route, and another route, come in between.
        for what in [10, 11, 12] {
            join(&mut line, 0, Priority::Normal, 1, 1, what);
        }
        join(&mut line, 1, Priority::Normal, 1, 2, 20);
        join(&mut line, 1, Priority::Normal, 2, 3, 30);
        join(&mut line, 2, Priority::Critical, 1, 4, 40);
        join(&mut line, 2, Priority::Low, 1, 5, 50);
        assert_eq!(served(&mut line, 3), [40, 10, 30, 20, 11, 12, 50]);
    }

    #[test]
    fn when_the_line_stands_the_newest_goes_first() {
        let mut line = Line::new(100, MS * 20);
        for client in 0..4 {
            join(&mut line, client, Priority::Normal, 1, u64::from(client), client);
        }
        assert_eq!(line.next(MS * 5).map(|(what, _)| what), Some(0), "it has not stood for long");
        join(&mut line, 40, Priority::Normal, 1, 9, 9);
        assert_eq!(line.oldest(MS * 40), MS * 39);
        assert_eq!(served(&mut line, 41), [9, 1, 2, 3]);
        assert!(line.is_empty() && !line.is_overloaded(MS * 50));
    }

    #[test]
    fn who_has_much_waiting_leaves_room_for_those_who_have_none() {
        let mut line = Line::new(64, MS * 1000);
        let joined =
            (0..1000).filter(|n| !matches!(join(&mut line, 0, Priority::Normal, 1, 1, *n), Joined::OverShare(_)));
        assert_eq!(joined.count(), 32);
        let others =
            (0..20).filter(|n| matches!(join(&mut line, 0, Priority::Normal, 1, 100 + n, 0), Joined::Waits { .. }));
        assert_eq!(others.count(), 20);
        // While the newest goes first it may have its newest in the place of its oldest.
        assert!(matches!(
            join(&mut line, 2000, Priority::Normal, 1, 1, 77),
            Joined::Instead { of: 0, wanted: false, .. }
        ));
        assert_eq!(line.len(), 52);
    }

    #[test]
    fn a_full_line_makes_room_for_higher_priorities_alone() {
        let mut line = Line::new(3, MS * 1000);
        for client in 0..3 {
            join(&mut line, 0, Priority::Normal, 1, client, client as u32);
        }
        assert!(matches!(join(&mut line, 0, Priority::Normal, 1, 7, 7), Joined::Full(7)));
        assert!(matches!(join(&mut line, 0, Priority::Low, 1, 8, 8), Joined::Full(8)));
        assert!(matches!(join(&mut line, 0, Priority::Critical, 1, 9, 9), Joined::Instead { of: 2, .. }));
        assert_eq!(served(&mut line, 1), [9, 0, 1]);
    }

    #[test]
    fn who_leaves_is_not_served() {
        let mut line = Line::new(10, MS);
        let mut tickets = Vec::new();
        for (client, what) in [(1, 1), (1, 2), (2, 3)] {
            if let Joined::Waits { ticket, .. } = join(&mut line, 0, Priority::High, 1, client, what) {
                tickets.push(ticket);
            }
        }
        assert_eq!(line.leave(&tickets[1]), Some(2));
        assert_eq!(line.leave(&tickets[1]), None);
        assert_eq!(line.leave(&tickets[2]), Some(3));
        assert_eq!((served(&mut line, 0), line.len()), (vec![1], 0));
        assert_eq!(line.leave(&tickets[0]), None, "it was served");
    }
}
