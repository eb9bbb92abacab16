use std::io::Cursor;

use minisign::{KeyPair, SecretKey};

use super::*;

const FILE: &[u8] = b"\0asm, more or less";

struct Author {
    secret: SecretKey,
    public: String,
}

fn author() -> Author {
    let pair = KeyPair::generate_unencrypted_keypair().expect("random numbers");
    Author {
        secret: pair.sk,
        public: pair.pk.to_box().expect("a box").into_string(),
    }
}

impl Author {
    fn trusted(&self, name: &str) -> TrustedKey {
        TrustedKey::read(name, &self.public).expect("a key")
    }

    fn signs(&self, bytes: &[u8]) -> String {
        minisign::sign(None, &self.secret, Cursor::new(bytes), Some("v1"), None)
            .expect("signed")
            .into_string()
    }
}

#[test]
fn who_signed_is_believed_only_if_the_node_says_so() {
    let (acme, stranger) = (author(), author());
    let (by_acme, by_stranger) = (acme.signs(FILE), stranger.signs(FILE));
    let other = author();
    let keys = vec![other.trusted("other"), acme.trusted("acme")];
    let required = Trust {
        keys: keys.clone(),
        required: true,
    };
    let optional = Trust {
        keys,
        required: false,
    };
    let nobody = Trust::default();
    let name = |of: Result<Option<Signer>, Doubt>| of.map(|signer| signer.map(|s| s.name));
    let acme_name = Ok(Some("acme".to_owned()));
    let check = |trust: &Trust, bytes: &[u8], signature: Option<&str>, expected| {
        assert_eq!(
            name(trust.signer(bytes, signature)),
            expected,
            "{signature:?}"
        );
    };
    check(&required, FILE, Some(&by_acme), acme_name.clone());
    check(&optional, FILE, Some(&by_acme), acme_name);
    check(&nobody, FILE, Some(&by_acme), Ok(None));

    check(&required, FILE, Some(&by_stranger), Err(Doubt::Stranger));
    check(&optional, FILE, Some(&by_stranger), Ok(None));
    check(&required, FILE, None, Err(Doubt::Unsigned));
    check(&optional, FILE, None, Ok(None));

    // A changed file is refused wherever the key is known.
    let changed = Err(Doubt::Changed("acme".to_owned()));
    check(
        &required,
        b"something else",
        Some(&by_acme),
        changed.clone(),
    );
    check(
        &optional,
        b"something else",
        Some(&by_acme),
        changed.clone(),
    );
    // So is a comment that was changed: it is signed too.
    let forged = by_acme.replace("v1", "v2");
    check(&optional, FILE, Some(&forged), changed);
    check(&optional, FILE, Some("what"), Err(Doubt::Unreadable));
    check(&optional, FILE, Some(""), Err(Doubt::Unreadable));

    let no_keys = Trust {
        keys: Vec::new(),
        required: true,
    };
    check(&no_keys, FILE, Some(&by_acme), Err(Doubt::Stranger));
}

#[test]
fn what_is_in_use_is_taken_as_long_as_its_signer_is_believed() {
    let (acme, other) = (author(), author());
    let trust = |keys: &[&Author], required| Trust {
        keys: keys
            .iter()
            .map(|author| author.trusted("someone"))
            .collect(),
        required,
    };
    let both = trust(&[&acme, &other], true);
    let signer = both.signer(FILE, Some(&acme.signs(FILE))).expect("acme's");
    assert!(both.still_takes(signer.as_ref()));
    assert!(
        trust(&[&acme], true).still_takes(signer.as_ref()),
        "by key, not by name"
    );
    assert!(!trust(&[&other], true).still_takes(signer.as_ref()));
    assert!(!both.still_takes(None));
    assert!(trust(&[], false).still_takes(None));
}

#[test]
fn keys_are_read_as_tools_write_them() {
    let acme = author();
    let line = acme.public.lines().nth(1).expect("two lines");
    let alone = TrustedKey::read("acme", line);
    assert_eq!(alone, Ok(acme.trusted("acme")));
    for text in [
        "",
        "untrusted comment: x",
        "RWQ",
        "-----BEGIN PUBLIC KEY-----",
    ] {
        assert_eq!(TrustedKey::read("x", text), Err(NoKey), "{text}");
    }
}
