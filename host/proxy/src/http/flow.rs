//! A real flow, as an HTTP connection asks it.

use std::io;

use tidegate_contract::L7Summary;
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::http::{HttpHead, ResponseHead};

use super::Inspector;
use crate::{
    decide::{
        Attribution,
        http::{self, Decision},
    },
    flow::{FlowContext, Standing},
    leg::Leg,
};

impl Inspector for FlowContext {
    async fn connect_upstream(&self) -> io::Result<Leg> {
        self.connect_upstream().await.map(Leg::from)
    }

    fn options(&self) -> HttpOptions {
        self.with_sides(
            |local, sides, _| local.state.http_options(sides),
            |_, _| HttpOptions::default(),
        )
    }

    fn is_over(&self) -> bool {
        self.is_over()
    }

    fn standing(&self) -> Standing {
        self.standing()
    }

    fn stands(&self, standing: &Standing) -> bool {
        self.stands(standing)
    }

    fn decide_request(&self, head: &HttpHead<'_>) -> Decision {
        self.with_sides(
            |local, sides, facts| {
                let shadows = self.shadows(local, sides);
                let sides = (&sides[..], &shadows[..]);
                http::request(sides, local.state.generation, head, facts)
            },
            http::failed,
        )
    }

    fn decide_response(&self, request: Attribution, head: &ResponseHead<'_>) -> Decision {
        self.with_sides(
            |_, sides, facts| http::response(sides, request, head, facts),
            http::failed,
        )
    }

    fn record(&self, attribution: Attribution, allowed: bool, summary: L7Summary) {
        self.record(attribution, allowed, summary);
    }
}
