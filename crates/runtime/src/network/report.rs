//! What of a network's events is reported, and how much.
//!
//! A guest can cause as many refusals as it likes. All sandboxes share one journal, so each has a
//! budget of lines; what is past it is counted and reported with the next line.

use std::time::{Duration, Instant};

use cofferdam_base::time::unix_time_ns;
use cofferdam_net::Event;
use cofferdam_proto::NetworkDenial;

/// Most reports of one sandbox in [`WINDOW`].
const MOST: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// Something that the user may want to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The policy has refused something.
    Denied {
        /// Where the guest wanted to, or the name that it asked for.
        destination: String,
        /// Why it was refused.
        reason: String,
        /// The rule that would allow it.
        allow: Option<String>,
    },
    /// Something else, as a sentence.
    Notice(String),
}

impl Report {
    /// The stack ended before its sandbox.
    pub(super) fn stopped(why: &str) -> Self {
        Self::Notice(format!("The network has stopped: {why}"))
    }
}

/// Reports that a sandbox may still make.
#[derive(Debug, Default)]
pub(super) struct Budget {
    began: Option<Instant>,
    made: u32,
    left_out: u64,
}

impl Budget {
    /// The reports for an event, within the budget.
    pub(super) fn take(&mut self, event: &Event) -> Vec<Report> {
        self.take_at(event, Instant::now())
    }

    fn take_at(&mut self, event: &Event, now: Instant) -> Vec<Report> {
        let mut reports = Vec::new();
        let Some(report) = report(event) else {
            return reports;
        };
        let is_new = self
            .began
            .is_none_or(|began| now.duration_since(began) >= WINDOW);
        if is_new {
            (self.began, self.made) = (Some(now), 0);
            if self.left_out > 0 {
                let what = format!("{} more events of the network were left out", self.left_out);
                reports.push(Report::Notice(what));
                self.left_out = 0;
            }
        }
        if self.made >= MOST {
            self.left_out += 1;
            return reports;
        }
        self.made += 1;
        reports.push(report);
        reports
    }
}

/// What a client sees of an event that is a denial.
pub(super) fn denial(event: &Event) -> Option<NetworkDenial> {
    match report(event)? {
        Report::Denied {
            destination,
            reason,
            allow,
        } => Some(NetworkDenial {
            time_ns: unix_time_ns(),
            destination,
            reason,
            allow,
        }),
        Report::Notice(_) => None,
    }
}

fn report(event: &Event) -> Option<Report> {
    let denied = |destination: String, reason: String| Report::Denied {
        destination,
        reason,
        allow: event.allow().map(str::to_owned),
    };
    match event {
        Event::Denied {
            protocol,
            destination,
            name,
            denial,
        } => {
            let name = name
                .as_ref()
                .map_or_else(String::new, |name| format!(" ({name})"));
            let place = format!("{destination}/{protocol}{name}");
            Some(denied(place, denial.reason.to_string()))
        }
        Event::NameDenied { name, denial } => Some(denied(name.clone(), denial.reason.to_string())),
        Event::RebindingRefused { name, address } => {
            let reason = format!("its address {address} is private");
            Some(denied(name.clone(), reason))
        }
        Event::SecretMisplaced { name, destination } => {
            let reason = format!("the secret `{name}` may not be sent there");
            Some(denied(destination.clone(), reason))
        }
        // That is how every sandbox ends.
        Event::ChannelClosed => None,
        other => Some(Report::Notice(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(name: &str) -> Event {
        Event::ResolversDown {
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_flood_of_events_is_bounded_and_its_rest_is_counted() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        let made = (0..1000).map(|_| budget.take_at(&down("a.example"), start).len());
        assert_eq!(made.sum::<usize>(), MOST as usize);
        let later = budget.take_at(&down("b.example"), start + WINDOW);
        let [Report::Notice(left_out), Report::Notice(new)] = later.as_slice() else {
            panic!("{later:?}");
        };
        assert!(left_out.starts_with("940 more events"), "{left_out}");
        assert!(new.contains("b.example"), "{new}");
    }

    #[test]
    fn the_end_of_a_machine_is_no_event_of_its_network() {
        let reports = Budget::default().take(&Event::ChannelClosed);
        assert_eq!(reports, []);
    }
}
