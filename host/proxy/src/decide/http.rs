//! Requests and responses: what a plugin is asked, and what its answers come to.
//!
//! A plugin that judges heads sees the message as it was received, one that takes part in
//! the exchange as those before have made it; the edits add up, and where two touch the same
//! header the later one wins.

use std::{borrow::Cow, sync::Arc};
use tidegate_policy::compiled::Generation;

use tidegate_wire::http::{HeaderEdit, HttpHead, ResponseHead};

use super::{
    Attribution, Facts, Failure, Filter, InShadow, Side, Who,
    exchange::{BodyWish, Filters, HeadVerdict, HttpSession, Part, edited},
    rehearsal::rehearse,
    walk::{Answered, Walk},
};

/// A plugin that judges HTTP.
pub trait HttpFilter {
    /// Begins its part of an exchange, if it takes part in more than heads: then that is
    /// asked, and not this.
    ///
    /// # Errors
    ///
    /// If the plugin could not begin.
    fn begin(&self, facts: &Arc<Facts>) -> Result<Option<Box<dyn HttpSession>>, Failure> {
        let _ = facts;
        Ok(None)
    }

    /// Does it want to see the heads of final responses?
    fn sees_responses(&self) -> bool;

    /// Asks about a request.
    ///
    /// # Errors
    ///
    /// If the plugin could not decide.
    fn request(&self, head: &HttpHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Failure>;

    /// Asks about a final response.
    ///
    /// # Errors
    ///
    /// If the plugin could not decide.
    fn response(&self, head: &ResponseHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Failure>;
}

/// A plugin's answer to a request or response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// What to do.
    pub verdict: Verdict,
    /// Index into [`Filter::rules`] of the rule that decided, if one did.
    pub rule: Option<u32>,
}

/// The answer to a head.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What to do with the message.
    pub verdict: Verdict,
    /// Who decided, for the record.
    pub attribution: Attribution,
    /// Some plugin in the chain wants the response head too.
    pub sees_response: bool,
    /// Plugins that take part in the rest of the exchange.
    pub filters: Filters,
}

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass the original bytes.
    Allow,
    /// Pass with these changes to its header fields.
    Edit(HeaderEdit),
    /// Answer instead of passing it.
    Deny(Denial),
}

/// A refusal, sent to the client instead of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Status: 400–599, or what a plugin answers itself, 200–599.
    pub status: u16,
    /// Fields that a plugin sets; without `content-type` the body is text.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Cow<'static, [u8]>,
}

impl Denial {
    /// In words.
    pub fn text(status: u16, body: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: match body.into() {
                Cow::Borrowed(body) => Cow::Borrowed(body.as_bytes()),
                Cow::Owned(body) => Cow::Owned(body.into_bytes()),
            },
        }
    }
}

impl Default for Denial {
    /// What Cilium's clients know: 403 and `Access denied`.
    fn default() -> Self {
        Self::text(403, "Access denied\r\n")
    }
}

/// Status of a request that a plugin failed to decide, fail mode closed: the fault is
/// ours, not the client's.
const FAILED_STATUS: u16 = 503;
const FAILED_BODY: &str = "Policy could not be decided\r\n";

/// Decides a request by both sides, egress first; `shadows` is what is in shadow for each.
pub fn request(
    (sides, shadows): (&[Side<'_>], &[InShadow<'_>]),
    generation: Generation,
    head: &HttpHead<'_>,
    facts: &Arc<Facts>,
) -> Decision {
    let mut decision = decide_request(sides, generation, head, facts);
    // What it would change is not changed, and bodies are not rehearsed.
    let ask = |plugin: &dyn Filter| {
        let answered = ask(of(plugin)?, head, facts, &mut HeaderEdit::default())?;
        Ok((answered.refusal, answered.rule))
    };
    let rehearsed = rehearse((sides, shadows), &decision.1, ask, failed_denial);
    decision.0.attribution.rehearsed = rehearsed.map(Box::new);
    decision.0
}

/// What a plugin was heard to say about the head of a request.
struct Asked {
    refusal: Option<Denial>,
    rule: Option<u32>,
    /// Its part of the rest, if it passed.
    begun: Option<(Box<dyn HttpSession>, BodyWish)>,
}

/// Asks one plugin about the head of a request.
fn ask(
    plugin: &dyn HttpFilter,
    head: &HttpHead<'_>,
    facts: &Arc<Facts>,
    edit: &mut HeaderEdit,
) -> Result<Asked, Failure> {
    let Some(session) = plugin.begin(facts)? else {
        let answer = plugin.request(head, facts)?;
        return Ok(Asked {
            refusal: http_refusal(answer.verdict, edit),
            rule: answer.rule,
            begun: None,
        });
    };
    let before = edit.clone();
    let headers = edited(head.headers, &before);
    let head = HttpHead {
        headers: &headers,
        ..*head
    };
    Ok(match session.request(&head)? {
        HeadVerdict::Pass {
            rule,
            edit: more,
            body,
        } => {
            add_edit(edit, more);
            Asked {
                refusal: None,
                rule,
                begun: Some((session, body)),
            }
        }
        HeadVerdict::Reply(reply) => Asked {
            rule: reply.rule,
            refusal: Some(reply.into()),
            begun: None,
        },
    })
}

/// What can be asked about HTTP.
fn of(plugin: &dyn Filter) -> Result<&dyn HttpFilter, Failure> {
    plugin.http().ok_or(Failure::WrongWorld)
}

/// The decision, and who made it.
fn decide_request(
    sides: &[Side<'_>],
    generation: Generation,
    head: &HttpHead<'_>,
    facts: &Arc<Facts>,
) -> (Decision, Walk) {
    let mut walk = Walk::new(generation);
    walk.connects = head.method == "CONNECT";
    let mut edit = HeaderEdit::default();
    let mut sees_response = false;
    let mut filters = Filters::default();
    if let Some(side) = sides.iter().find(|side| walk.opens_no_tunnel(side)) {
        walk.attribution.rules.push(side.rule);
        walk.attribution.unmatched = true;
        walk.attribution.ingress = side.ingress;
        walk.attribution.audited = side.audit;
        walk.refused = true;
        if !side.audit {
            let decision = Decision {
                verdict: Verdict::Deny(no_tunnel()),
                attribution: walk.attribution.clone(),
                sees_response,
                filters,
            };
            return (decision, walk);
        }
    }
    let refused = walk.run(
        sides,
        |side, filter| -> Answered<Denial> {
            let plugin = of(filter)?;
            sees_response |= plugin.sees_responses();
            let asked = ask(plugin, head, facts, &mut edit)?;
            if let Some((session, body)) = asked.begun {
                filters.add(Part::new(Who::new(filter, side, generation), session, body));
            }
            Ok((asked.refusal, asked.rule))
        },
        failed_denial,
    );
    if refused.is_some() {
        filters = Filters::default();
    }
    let decision = Decision {
        sees_response: sees_response && refused.is_none(),
        filters,
        verdict: http_verdict(refused, edit),
        attribution: walk.finish(sides),
    };
    (decision, walk)
}

/// Decides a final response by those plugins that want to see it, in the same order.
pub fn response(
    sides: &[Side<'_>],
    request: Attribution,
    head: &ResponseHead<'_>,
    facts: &Arc<Facts>,
) -> Decision {
    let mut walk = Walk::new(request.generation);
    walk.of_request = request.set;
    let mut edit = HeaderEdit::default();
    let refused = walk.run(
        sides,
        |_, plugin| {
            let plugin = of(plugin)?;
            if !plugin.sees_responses() {
                return Ok((None, None));
            }
            let answer = plugin.response(head, facts)?;
            Ok((http_refusal(answer.verdict, &mut edit), answer.rule))
        },
        failed_denial,
    );
    let attribution = if refused.is_some() || walk.attribution.audited {
        walk.finish(sides)
    } else {
        // The request's attribution stands; the response adds only what went wrong.
        Attribution {
            error: walk.attribution.error.or(request.error),
            ..request
        }
    };
    Decision {
        verdict: http_verdict(refused, edit),
        attribution,
        sees_response: false,
        filters: Filters::default(),
    }
}

/// A refusal for which no rule is to blame.
pub fn failed(error: tidegate_contract::Failure, generation: Generation) -> Decision {
    Decision {
        verdict: Verdict::Deny(failed_denial()),
        attribution: Attribution {
            error: Some(error),
            generation,
            ..Attribution::default()
        },
        sees_response: false,
        filters: Filters::default(),
    }
}

/// Nobody looks into a tunnel, so nobody opens one by the way.
fn no_tunnel() -> Denial {
    Denial::text(
        403,
        "CONNECT needs a rule with method CONNECT and a host\r\n",
    )
}

pub(super) fn failed_denial() -> Denial {
    Denial::text(FAILED_STATUS, FAILED_BODY)
}

/// Splits an answer into its refusal, if it is one, and its edits.
fn http_refusal(verdict: Verdict, edit: &mut HeaderEdit) -> Option<Denial> {
    match verdict {
        Verdict::Allow => None,
        Verdict::Edit(more) => {
            add_edit(edit, more);
            None
        }
        Verdict::Deny(denial) => Some(denial),
    }
}

fn http_verdict(refused: Option<Denial>, edit: HeaderEdit) -> Verdict {
    match refused {
        Some(denial) => Verdict::Deny(denial),
        None if edit == HeaderEdit::default() => Verdict::Allow,
        None => Verdict::Edit(edit),
    }
}

/// Adds a later plugin's changes; for a header that both touch the later one wins.
pub(crate) fn add_edit(edit: &mut HeaderEdit, more: HeaderEdit) {
    let touched = |name: &str| {
        more.remove.iter().any(|n| n.eq_ignore_ascii_case(name))
            || more.set.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    edit.set.retain(|(name, _)| !touched(name));
    edit.remove.retain(|name| !touched(name));
    edit.remove.extend(more.remove);
    edit.set.extend(more.set);
}
