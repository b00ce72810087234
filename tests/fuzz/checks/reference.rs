//! References and nonces: what we give to gateways comes back as it was, and no two messages share one.

use outboxd::message::{MessageId, Nonce, NotifyRef};

use super::callback;

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    callback::reference(&text);
    if let Some(nonce) = Nonce::parse(&text) {
        assert_eq!(nonce.encode(), text.to_ascii_uppercase());
    }
    // The same bytes as the numbers of two references.
    let (one, other) = (built(input), built(input.get(18..).unwrap_or_default()));
    for reference in [one, other] {
        let text = reference.encode();
        assert!(text.len() <= 30, "{text}: a gateway takes no more");
        assert!(text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-'), "{text}");
        assert_eq!(NotifyRef::parse(&text), Some(reference), "{text}");
        assert_eq!(Nonce::parse(&reference.nonce.encode()), Some(reference.nonce));
    }
    assert_eq!(one == other, one.encode() == other.encode());
}

fn built(input: &[u8]) -> NotifyRef {
    let number = |from: usize| {
        let bytes = input.iter().skip(from).chain(std::iter::repeat(&0)).take(8);
        bytes.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    NotifyRef {
        id: MessageId(number(0).cast_signed()),
        nonce: Nonce::from_bits(number(8)),
        attempt: i32::try_from(1 + number(10) % 9_999_999).unwrap_or(1),
    }
}
