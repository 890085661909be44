//! Names that are not ours: who may have them asked for elsewhere, and how what was told there completes an answer.

use crate::answer::{Answer, Ede, Over, Rcode, is_served};
use crate::dns::forward::{Forwarder, Query, Told};
use crate::view::View;

/// Who can be asked, and what was told already.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    pub forwarder: &'a Forwarder,
    pub told: Option<(&'a Query, &'a Told)>,
}

/// What a client may, and wants.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// It may have names forwarded.
    pub permitted: bool,
    /// RD: it wants more than what is known here.
    pub recursion: bool,
}

impl Onward<'_> {
    /// Completes `answer`, whose aliases lead to a name that is not ours, or puts what is known of a DS in its place; `None` where
    /// another server has to be asked.
    ///
    /// True where everything in it was validated by somebody that we trust.
    pub fn lead(
        &self,
        view: &View,
        query: &Query,
        asker: Asker,
        over: Over,
        answer: &mut Answer,
    ) -> Option<bool> {
        let Asker { permitted, recursion } = asker;
        if let Some(special) = self.forwarder.special(view, &query.name, query.qtype).filter(|special| {
            // A probe of ours is known whoever brings it back; all else is for those who may ask.
            special.rcode == Rcode::Refused || permitted && recursion
        }) {
            // Nobody has a better word on the DS of a zone of ours among them than that zone.
            if !is_served(view, &query.name) {
                join(answer, special);
            }
            return Some(false);
        }
        if !permitted || !recursion {
            // What others asked for is nobody's business (RFC 8914 section 4.21); our own aliases are there.
            if answer.rcode == Rcode::Refused && !permitted {
                answer.ede = Some(Ede::new(Ede::PROHIBITED, "this client may not have names forwarded"));
            }
            return Some(false);
        }
        let known;
        let told = match self.told {
            Some((asked, told)) if asked == query => told,
            // Our zones changed meanwhile, and lead elsewhere: the client may ask again.
            Some(_) => {
                *answer = unsure("the aliases of this name have just changed");
                return Some(false);
            }
            None => {
                known = self.forwarder.known(query)?;
                &known
            }
        };
        let authentic = told.outcome.authentic && answer.answer.is_empty();
        if told.outcome.answer.truncated && !over.is_datagram() {
            *answer = unsure("the upstream has only a part of this, and no TCP");
            return Some(false);
        }
        join(answer, told.answer());
        Some(authentic)
    }
}

/// `rest` behind the aliases that lead to it.
pub fn join(answer: &mut Answer, rest: Answer) {
    if answer.answer.is_empty() || matches!(rest.rcode, Rcode::ServFail | Rcode::Refused) {
        *answer = rest;
        return;
    }
    // The rcode is that of the last name (RFC 6604 section 3), and AA that of the first (RFC 1035 section 4.1.1).
    answer.rcode = rest.rcode;
    answer.truncated = rest.truncated;
    answer.answer.extend(rest.answer);
    (answer.authority, answer.additional, answer.ede) = (rest.authority, rest.additional, rest.ede);
}

fn unsure(text: &str) -> Answer {
    Answer::bare(Rcode::ServFail, Some(Ede::new(Ede::OTHER, text)))
}
