//! Signing what was built, with keys that no node needs to have.

use std::{
    fs::{self, OpenOptions},
    io::{self, Cursor, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use data_encoding::BASE64;
use minisign::{KeyPair, SecretKey, SecretKeyBox};
use tidegate_signatures::{Doubt, EXTENSION, Trust, TrustedKey};

/// Characters of a secret key, as the second line of its file: 158 bytes in base64.
const SECRET: usize = 212;
/// Where in those bytes it says how the rest is kept: two zeros, as it is.
const KDF: std::ops::Range<usize> = 2..4;

/// Longest line that is signed along, bytes: nodes read signatures of 4 KiB.
const COMMENT: usize = 1024;

/// How a key that signs is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Behind a password that the terminal is asked for.
    Ask,
    /// Behind this one.
    Password(String),
    /// Whoever has the file signs.
    Open,
}

/// Makes `NAME.key`, which signs and which nobody else may read, and `NAME.pub`, which nodes
/// get.
///
/// # Errors
///
/// If one of them exists, or cannot be written.
pub fn make_keys(name: &Path, lock: Lock) -> anyhow::Result<[PathBuf; 2]> {
    let files = ["key", "pub"].map(|extension| name.with_added_extension(extension));
    for file in &files {
        // Whoever signed with that key could not any more.
        anyhow::ensure!(
            !file.exists(),
            "{} exists: give the new key another name, or move that away",
            file.display()
        );
    }
    let pair = match lock {
        Lock::Ask if !io::stdin().is_terminal() => anyhow::bail!(
            "there is no terminal to ask for a password: use --password-file, or --no-password \
             if whoever has the file may sign"
        ),
        Lock::Ask => KeyPair::generate_encrypted_keypair(None),
        Lock::Password(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        Lock::Open => KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.context("cannot make a pair of keys")?;
    let texts = [
        (pair.sk.to_box(None)?.into_string(), 0o600),
        (pair.pk.to_box()?.into_string(), 0o644),
    ];
    for (file, (text, mode)) in files.iter().zip(texts) {
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(mode).open(file);
        let mut made = made.with_context(|| format!("cannot write {}", file.display()))?;
        made.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(files)
}

/// Signs a file with the key in another, and puts the signature beside it. `comment` is signed
/// along; without one it says when, and which file.
///
/// # Errors
///
/// If the key cannot be used or a file not be read or written.
pub fn sign(file: &Path, key: &Path, lock: Lock, comment: Option<&str>) -> anyhow::Result<PathBuf> {
    let secret = secret(key, lock)?;
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let usual;
    let comment = match comment {
        Some(comment) => {
            anyhow::ensure!(
                !comment.contains(char::is_control) && comment.len() <= COMMENT,
                "the comment has to be one line of text, at most {COMMENT} bytes"
            );
            comment
        }
        None => {
            let now = std::time::UNIX_EPOCH
                .elapsed()
                .unwrap_or_default()
                .as_secs();
            usual = format!("timestamp:{now}\tfile:{name}\thashed");
            &usual
        }
    };
    let untrusted = Some("signed with tidegate, to be checked with it or with minisign");
    let signature = minisign::sign(None, &secret, Cursor::new(&bytes), Some(comment), untrusted)
        .context("cannot sign")?;
    let beside = file.with_added_extension(EXTENSION);
    // A node that watches this folder must not see half of it.
    let aside = beside.with_added_extension("tmp");
    fs::write(&aside, signature.into_string())
        .and_then(|()| fs::rename(&aside, &beside))
        .with_context(|| format!("cannot write {}", beside.display()))?;
    Ok(beside)
}

fn secret(key: &Path, lock: Lock) -> anyhow::Result<SecretKey> {
    let named = || format!("{}", key.display());
    let text = fs::read_to_string(key).with_context(|| format!("cannot read {}", named()))?;
    let encoded = text.lines().nth(1).unwrap_or_default().trim();
    anyhow::ensure!(
        encoded.len() == SECRET,
        "{} is no secret key of minisign",
        named()
    );
    let read = || {
        SecretKeyBox::from_string(&text)
            .with_context(|| format!("{} is no secret key of minisign", named()))
    };
    // minisign itself leaves such a key without the checksum that the library asks for.
    let bytes = BASE64.decode(encoded.as_bytes()).unwrap_or_default();
    if let Ok(open) = SecretKey::from_bytes(&bytes)
        && bytes[KDF] == [0, 0]
    {
        return Ok(open);
    }
    let password = match lock {
        Lock::Open => anyhow::bail!("{} has a password", named()),
        Lock::Password(password) => Some(password),
        Lock::Ask if io::stdin().is_terminal() => None,
        Lock::Ask => anyhow::bail!(
            "{} has a password, and there is no terminal to ask for it: use --password-file",
            named()
        ),
    };
    let opened = read()?.into_secret_key(password);
    opened.with_context(|| format!("cannot open {}: a wrong password?", named()))
}

/// What a node that believes these keys, and nobody else, would say of the file's signature:
/// whose it is, or why it is refused.
///
/// # Errors
///
/// If a file cannot be read, or is no public key.
pub fn judge(file: &Path, keys: &[PathBuf]) -> anyhow::Result<Result<String, String>> {
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok::<_, anyhow::Error>(TrustedKey::read(&name, &text)?)
    };
    let keys = keys
        .iter()
        .map(|path| read(path).with_context(|| format!("{} is no public key", path.display())));
    let trust = Trust {
        keys: keys.collect::<anyhow::Result<_>>()?,
        required: true,
    };
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let signature = fs::read_to_string(file.with_added_extension(EXTENSION)).ok();
    let signer = trust.signer(&bytes, signature.as_deref());
    Ok(match signer {
        Err(Doubt::Unsigned) => Err(format!("{}: it is not signed", file.display())),
        Err(Doubt::Stranger) => Err(format!("{}: none of these keys signed it", file.display())),
        Ok(signer) => Ok(signer.map(|signer| signer.name).unwrap_or_default()),
        Err(doubt) => Err(format!("{}: it {doubt}", file.display())),
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, slice};

    use super::*;

    #[test]
    fn what_is_signed_here_is_believed_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let file = at("bot.wasm");
        fs::write(&file, "a component").unwrap();
        let [open, acme] = make_keys(&at("acme"), Lock::Open).unwrap();
        let secret = Lock::Password("sesame".into());
        let [locked, other] = make_keys(&at("other"), secret.clone()).unwrap();
        for key in [&open, &locked] {
            let mode = fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let error = make_keys(&at("acme"), Lock::Open).unwrap_err().to_string();
        assert!(error.contains("acme.key exists"), "{error}");

        let unsigned = judge(&file, slice::from_ref(&acme)).unwrap().unwrap_err();
        assert!(unsigned.contains("is not signed"), "{unsigned}");
        let beside = sign(&file, &open, Lock::Ask, None).unwrap();
        assert_eq!(beside, at("bot.wasm.minisig"));
        let text = fs::read_to_string(&beside).unwrap();
        assert!(text.contains("\tfile:bot.wasm\thashed"), "{text}");
        let keys = [other.clone(), acme];
        assert_eq!(judge(&file, &keys).unwrap(), Ok("acme".into()));
        let stranger = judge(&file, slice::from_ref(&other)).unwrap().unwrap_err();
        assert!(stranger.contains("none of these keys"), "{stranger}");

        for wrong in [Lock::Open, Lock::Password("sesamE".into())] {
            let error = sign(&file, &locked, wrong, None).unwrap_err();
            assert!(error.to_string().contains("password"), "{error:#}");
        }
        sign(&file, &locked, secret, Some("v2")).unwrap();
        assert_eq!(judge(&file, &keys).unwrap(), Ok("other".into()));
        fs::write(&file, "another component").unwrap();
        let changed = judge(&file, &keys).unwrap().unwrap_err();
        assert!(changed.contains("not what other signed"), "{changed}");
        let error = sign(&file, &beside, Lock::Open, None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no secret key of minisign"), "{error}");
        // As `minisign -G -W` writes it: without a checksum.
        let text = fs::read_to_string(&open).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut bytes = BASE64.decode(lines[1].as_bytes()).unwrap();
        bytes[SECRET / 4 * 3 - 33..].fill(0);
        lines[1] = BASE64.encode(&bytes);
        let plain = at("plain.key");
        fs::write(&plain, lines.join("\n")).unwrap();
        sign(&file, &plain, Lock::Open, None).unwrap();
        assert_eq!(judge(&file, &keys).unwrap(), Ok("acme".into()));
        let long = "x".repeat(COMMENT + 1);
        assert!(sign(&file, &open, Lock::Ask, Some(&long)).is_err());
        let error = sign(&file, &open, Lock::Ask, Some("a\nb")).unwrap_err();
        assert!(error.to_string().contains("one line"), "{error}");
    }
}
