//! Lets requests pass that bring `authorization: Bearer TOKEN` with a JSON Web Token signed by
//! HMAC-SHA256 (RFC 7519, HS256) with the key that is its plugin configuration; tells upstream
//! whose it is in `x-subject`. What a client says of that itself is taken away.

#![allow(missing_docs, reason = "the SDK's macro exports a function without")]

use std::rc::Rc;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use proxy_wasm::{traits::*, types::*};
use sha2::Sha256;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Root {
    key: Rc<[u8]>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.key = self.get_plugin_configuration().unwrap_or_default().into();
        !self.key.is_empty()
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Exchange(self.key.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Exchange(Rc<[u8]>);

impl Context for Exchange {}

impl Exchange {
    /// Whose token it is.
    fn subject(&self, field: &str) -> Result<String, &'static str> {
        let token = field.strip_prefix("Bearer ").ok_or("no bearer token")?;
        let (signed, signature) = token.rsplit_once('.').ok_or("not a token")?;
        let (_, claims) = signed.split_once('.').ok_or("not a token")?;
        let signature = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .map_err(|_| "not base64")?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(|_| "no key")?;
        mac.update(signed.as_bytes());
        mac.verify_slice(&signature)
            .map_err(|_| "signed by somebody else")?;
        let claims = BASE64URL_NOPAD
            .decode(claims.as_bytes())
            .map_err(|_| "not base64")?;
        let claims: serde_json::Value = serde_json::from_slice(&claims).map_err(|_| "not JSON")?;
        let subject = claims.get("sub").and_then(|subject| subject.as_str());
        subject.map(str::to_owned).ok_or("nobody's")
    }
}

impl HttpContext for Exchange {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let field = self
            .get_http_request_header("authorization")
            .unwrap_or_default();
        match self.subject(&field) {
            Ok(subject) => {
                self.set_http_request_header("x-subject", Some(&subject));
                self.set_http_request_header("authorization", None);
                Action::Continue
            }
            Err(why) => {
                let fields = vec![("www-authenticate", "Bearer")];
                self.send_http_response(401, fields, Some(why.as_bytes()));
                Action::Pause
            }
        }
    }
}
