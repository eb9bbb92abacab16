//! Masks card numbers in responses.

mod mask;

use std::rc::Rc;

use serde::Deserialize;
use tidegate_sdk::{
    Request, Response, count,
    exchange::{
        Body, BodyVerdict, ExchangeFilter, ExchangeNeeds, HttpExchange, LocalReply, See, Verdict,
    },
    exchange_filter,
};

use crate::mask::Mask;

/// Bytes that are looked at together.
const WINDOW: u32 = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Content types to look into, by how they begin.
    #[serde(default = "text")]
    types: Vec<String>,
}

fn text() -> Vec<String> {
    ["text/", "application/json"].map(str::to_owned).into()
}

struct CardFilter(Rc<Config>);

struct Exchange {
    config: Rc<Config>,
    mask: Mask,
}

impl ExchangeFilter for CardFilter {
    type Exchange = Exchange;

    fn configure(config: &str) -> Result<(Self, ExchangeNeeds), String> {
        let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        let needs = ExchangeNeeds::nothing().and_responses(["content-type", "content-encoding"]);
        Ok((Self(Rc::new(config)), needs))
    }

    fn begin(&self) -> Exchange {
        Exchange {
            config: self.0.clone(),
            mask: Mask::default(),
        }
    }
}

impl HttpExchange for Exchange {
    fn on_request(&mut self, _: &Request) -> Verdict {
        // What is compressed could not be read; a number of which a part was asked for would
        // not be one.
        ["accept-encoding", "range", "if-range"]
            .into_iter()
            .fold(Verdict::pass(), Verdict::and_remove_header)
    }

    fn on_response(&mut self, response: &Response) -> Verdict {
        let kind = response.headers.get_str("content-type").unwrap_or_default();
        let kind = kind.to_ascii_lowercase();
        if !self
            .config
            .types
            .iter()
            .any(|known| kind.starts_with(&**known))
        {
            return Verdict::pass();
        }
        match response.headers.get_str("content-encoding") {
            None | Some("identity") => Verdict::pass().and_see(See::Window(WINDOW)),
            Some(_) => Verdict::reply(LocalReply::new(502, "the response is compressed\n")),
        }
    }

    fn on_response_body(&mut self, body: Body<'_>) -> BodyVerdict {
        let before = self.mask.masked;
        let (made, done) = self.mask.look(body.bytes, body.end);
        count("masked", self.mask.masked - before);
        match made {
            Some(made) => BodyVerdict::replace_first(done, made),
            None => BodyVerdict::pass_first(done),
        }
    }
}

exchange_filter!(CardFilter, {
    "name": "card-filter",
    "version": "1.0.0",
    "capabilities": ["metrics"]
});
