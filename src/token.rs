//! Tokens: small texts that stand for a removal, to be handed from one request to the next.
//!
//! A token names the last removal of a call: the origin, its incarnation, and the number. Whoever gets it back asks
//! whether that removal, and with it those before it, has been applied.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::member::NodeName;
use crate::message::Incarnation;
use crate::removals::{Origin, Span};

/// The version of the text.
const VERSION: u8 = 1;

/// Stands for a removal: a get that carries it ([`GetOptions::no_older_than`](crate::GetOptions::no_older_than)) never
/// answers with anything older, on whichever node. For the request that follows a write through another instance of the
/// service: put it in a cookie or a header there, and hand it to the get here.
///
/// As text it is url-safe, and about 25 characters and four thirds of the length of the node's name long. It says
/// nothing that is secret, and nothing in it shows that it is genuine.
///
/// # Tokens of strangers
///
/// No get answers with anything wrong because of a token, but a made-up one makes work: nobody can confirm it, so the
/// key is dropped, fetched and loaded once more, at most once per key and second for the same token, but for **each**
/// of tokens that differ. Whoever may hand over any number of them can so make every get a load. Therefore:
///
/// - take tokens only from those who have just written: out of a signed or encrypted cookie, or a session;
/// - do not parse what comes from anybody else, or limit how many requests of a client may bring one.
///
/// ```
/// # use peerage::{GetOptions, Group, Token};
/// # async fn example(group: Group<String>) -> Result<(), Box<dyn std::error::Error>> {
/// let cookie = group.remove("user:42").await?.token().to_string();
/// // ... and in the next request, maybe on another node:
/// let token: Token = cookie.parse()?;
/// let user = group.get_with("user:42", GetOptions::new().no_older_than(token)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    origin: Origin,
    number: u64,
}

impl Token {
    /// For removals of one call, which are of one origin and follow each other.
    pub(crate) fn new(spans: &[Span]) -> Self {
        let last = spans.last().expect("a call makes at least one removal");
        Self { origin: last.origin.clone(), number: last.last }
    }

    /// The removals that are to be applied: all of that origin up to this one, of which a call may have made several.
    pub(crate) fn span(&self) -> Span {
        Span { origin: self.origin.clone(), first: 1, last: self.number }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.origin.incarnation.0.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.origin.name.as_str().as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// A text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no token of a removal: {0}")]
pub struct InvalidToken(&'static str);

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken("it is not in url-safe base64"))?;
        let (&version, rest) = bytes.split_first().ok_or(InvalidToken("it is empty"))?;
        if version != VERSION {
            return Err(InvalidToken("it is of a version that this build does not know"));
        }
        let cut = || InvalidToken("it is cut short");
        let (incarnation, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (number, name) = rest.split_first_chunk().ok_or_else(cut)?;
        let number = u64::from_be_bytes(*number);
        if number == 0 || number == u64::MAX {
            return Err(InvalidToken("its number cannot be"));
        }
        let name = std::str::from_utf8(name).map_err(|_| InvalidToken("its name is no text"))?;
        if name.is_empty() || name.len() > NodeName::MAX_LEN {
            return Err(InvalidToken("its name is missing or too long"));
        }
        let incarnation = Incarnation(u64::from_be_bytes(*incarnation));
        Ok(Self { origin: Origin::new(NodeName::from(name), incarnation), number })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_token_comes_back_from_its_text(name in "\\PC{1,60}", incarnation: u64, number in 1..u64::MAX) {
            let origin = Origin::new(NodeName::from(&name), Incarnation(incarnation));
            let token = Token { origin, number };
            let text = token.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(text.parse(), Ok(token));
        }

        #[test]
        fn whatever_the_text_is_it_is_a_token_or_an_error(text in "\\PC{0,60}", bytes: Vec<u8>) {
            let _ = text.parse::<Token>();
            let _ = URL_SAFE_NO_PAD.encode(bytes).parse::<Token>();
        }
    }

    #[test]
    fn what_is_no_token_is_told_why() {
        let why = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes).parse::<Token>().unwrap_err().to_string();
        assert!(why(&[]).contains("empty") && why(&[9; 40]).contains("version") && why(&[1; 12]).contains("cut short"));
        assert!("a b".parse::<Token>().unwrap_err().to_string().contains("base64"));
        assert!(why(&[1; 17]).contains("missing"), "there is no name");
    }
}
